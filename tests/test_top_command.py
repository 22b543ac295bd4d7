# SPDX-License-Identifier: MIT
"""`pyegress top` on a real terminal, with real traffic: what somebody sees, and that all is as before at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inputs.test_ebpf import send
from tests.screen import PATIENCE_S, OnTerminal, pyegress

PORT = 20000 + os.getpid() % 40000
LONGEST = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
HOSTILE_INPUT = """
import os, sys, threading
sys.path.insert(0, {root!r})
from pyegress import cli, registry
from pyegress.plugin import Input, Options
class Broken(Input):
    name, summary, Options = "ebpf", "breaks, or never ends", Options
    def __init__(self, options): self.go = threading.Event()
    def open(self, context): self.context = context
    def close(self): pass
    def stop(self): self.context.notice("told to stop")
    def read(self):
        yield []
        self.go.wait({wait})
        raise {error}
registry.INPUTS["ebpf"] = "__main__:Broken"
cli.main()
"""


@contextmanager
def top(*arguments: str, **extra: Any) -> Iterator[OnTerminal]:
    """At work on this test's port, by the hooks that need least."""
    only = ["--ebpf", "-I", "ebpf:attach:cgroup", "-I", f"ebpf:only-port:{PORT}", "-I", "ebpf:window:0"]
    with pyegress("top", *only, *arguments, **extra) as screen:
        screen.wait_for("observing with ebpf")
        yield screen


def row(screen: OnTerminal, destination: str) -> str:
    """That of a destination, once it is there."""
    return next(line for line in screen.wait_for(destination) if destination in line)


@needs_root
@pytest.mark.parametrize(("end", "columns"), [("ctrl-c", 80), ("SIGTERM", 80), ("q", 200)])
def test_what_is_seen(end: str, columns: int) -> None:
    """Process, destination, counts, the mark of new ones, losses, hooks; in the end the terminal as it was."""
    with top("-O", "table:interval:100ms", columns=columns) as screen:
        send("tcp", LONGEST, PORT, 3)
        send("udp", "198.18.0.1", PORT, 20)
        assert re.match(r"\+ +\d+\.\d +3 traffic +", row(screen, f"[{LONGEST}]:{PORT}/tcp"))
        first = row(screen, f" 198.18.0.1:{PORT}/udp")
        assert re.match(r"\+ +\d+\.\d +\d+ traffic ", first)
        lines = screen.wait_for("23 connections, ")
        assert re.match(
            r"pyegress 0:00:\d\d  ebpf \(cgroup\)  23 connections, \d+\.\d/s  rows 1-2 of 2$", lines[0]
        )
        assert lines[1].split()[:3] == ["RATE", "TOTAL", "PROCESS"] and "DESTINATION" in lines[1]
        assert ("PROGRAM" in lines[1]) == (columns == 200)
        assert "lost: 0" in lines and any("observing with ebpf" in line for line in lines)
        assert lines[-1].startswith("+ first seen in the last 1m; ")
        assert screen.in_picture and not screen.is_restored
        if end == "SIGTERM":
            screen.process.terminate()
        else:
            screen.type(b"q" if end == "q" else b"\x03")
        assert screen.end() == 0
        assert screen.is_restored
    stays = r"pyegress 0:00:\d\d  ebpf \(cgroup\)  23 connections, \d+\.\d/s  rows 1-2 of 2$"
    assert re.match(stays, screen.lines[0])
    assert screen.lines[1].split() == lines[1].split()
    said = "\n".join(screen.lines)
    assert "pyegress: observing with ebpf; press ctrl-c to stop\n" in said
    assert "pyegress: 23 connections\n" in said
    assert "new UDP connection" not in screen.said.decode()


@needs_root
def test_new_rows_lose_their_mark() -> None:
    """After the time that is asked for."""
    with top("-O", "table:new:1s", "-O", "table:interval:100ms") as screen:
        send("udp", "198.18.0.1", PORT, 1)
        assert row(screen, "198.18.0.1").startswith("+")
        screen.wait_for(lambda lines: any("198.18.0.1" in line and line.startswith(" ") for line in lines))


@needs_root
def test_window_is_resized() -> None:
    """The picture follows, to fewer columns and lines and back."""
    with top() as screen:
        send("udp", "198.18.0.1", PORT, 1)
        row(screen, "198.18.0.1")
        screen.resize(200, 40)
        assert "PROGRAM" in screen.wait_for(lambda lines: lines[-1].startswith("+ first seen"))[1]
        screen.resize(48, 8)
        lines = screen.wait_for(lambda lines: lines[0].startswith("pyegress") and lines[0].endswith("…"))
        assert f"198.18.0.1:{PORT}/udp" in lines[2] and "lost: 0" in lines
        screen.type(b"q")
        assert screen.end() == 0
        assert screen.is_restored


@needs_root
def test_hostile_name_is_inert() -> None:
    """Neither escape sequences nor markup of a name reach the terminal."""
    with top("-O", "table:by:process") as screen:
        send("named", "[red]\\x1b[2J\\x9bm", "udp", "198.18.0.1", PORT, 1)
        assert " [red]\\u001b[2J" in row(screen, "198.18.0.1")
        assert b"\x1b[2J\xc2" not in screen.said and b"\x9bm" not in screen.said
        screen.type(b"q")
        assert screen.end() == 0


@needs_root
def test_what_was_hidden_or_let_go_is_in_the_foot() -> None:
    """With the filter that hid it, and the option that bounds the rows."""
    with top("-I", "ebpf:ignore-cidr:198.18.0.2", "-O", "table:rows:1", columns=200) as screen:
        send("udp", "198.18.0.2", PORT, 5)
        screen.wait_for("5 by ignore-cidr:198.18.0.2")
        send("udp", "198.18.0.1", PORT, 1)
        send("udp", "198.18.0.3", PORT, 1)
        screen.wait_for("rows: 1 not seen for longest were let go")


@needs_root
def test_messages_are_in_the_picture() -> None:
    """SIGUSR1's summary tears nothing, and stands below the last picture."""
    with top() as screen:
        send("udp", "198.18.0.1", PORT, 1)
        row(screen, "198.18.0.1")
        screen.process.send_signal(signal.SIGUSR1)
        lines = screen.wait_for(lambda lines: any(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines))
        assert lines[0].startswith("pyegress 0:") and lines[1].split()[0] == "RATE"
        screen.type(b"q")
        assert screen.end() == 0
        assert sum(line == "pyegress: 1 connection" for line in screen.lines) == 2


@needs_root
def test_other_outputs_go_beside_it(tmp_path: Path) -> None:
    """They get the same."""
    log = tmp_path / "log"
    with top("-o", "text", "-O", f"text:file:{log}") as screen:
        send("udp", "198.18.0.1", PORT, 2)
        row(screen, "198.18.0.1")
        screen.type(b"q")
        assert screen.end() == 0
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("error", ["ValueError('a\\nb')", "OSError(5, 'no')"])
def test_input_that_fails(error: str, tmp_path: Path) -> None:
    """The terminal is as before, the error is below, and the status tells."""
    script = tmp_path / "fake.py"
    script.write_text(HOSTILE_INPUT.format(root=str(Path(__file__).parents[1]), error=error, wait=0))
    with OnTerminal(sys.executable, str(script), "top", "--ebpf") as screen:
        assert screen.end() == 1
        assert screen.is_restored
        assert any(line.startswith("pyegress: input ebpf: ") for line in screen.lines)


def test_second_ctrl_c_gives_up_and_restores(tmp_path: Path) -> None:
    """An input that never ends doesn't keep the terminal."""
    script = tmp_path / "fake.py"
    script.write_text(
        HOSTILE_INPUT.format(root=str(Path(__file__).parents[1]), error="ValueError", wait=9999)
    )
    with OnTerminal(sys.executable, str(script), "top", "--ebpf") as screen:
        screen.wait_for("observing with ebpf")
        screen.type(b"\x03")
        screen.wait_for("told to stop")
        screen.type(b"\x03")
        assert screen.end() == 1
        assert screen.is_restored


@needs_root
def test_closed_window_ends_it() -> None:
    """Nobody looks any more: it doesn't go on unseen."""
    with top("-O", "table:interval:100ms") as screen:
        screen.hang_up()
        assert screen.process.wait(PATIENCE_S) == 1


@pytest.mark.parametrize("words", [["top"], ["run", "-o", "table"]])
def test_no_terminal(words: list[str]) -> None:
    """Is refused before anything is observed, with what to do."""
    done = subprocess.run(
        [sys.executable, "-m", "pyegress", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    hint = "pyegress: table: standard output is no terminal to draw on; use -o text or -o logfmt\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", hint)


def test_output_that_would_write_between_the_lines_is_refused() -> None:
    """It is told where to go."""
    with pyegress("top", "-o", "text") as screen:
        assert screen.end() == 2
        said = "pyegress: -o text: standard output is for table; give -O text:file:FILE"
        assert screen.lines[0] == said
        assert screen.is_restored


def test_options_are_those_of_run() -> None:
    """With the table's output beside others."""
    said = subprocess.run(
        [sys.executable, "-m", "pyegress", "top", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "--nflog" in said and "Output beside the table" in said and "-O table:sort:count" in said

# SPDX-License-Identifier: MIT
"""A real terminal is drawn on, and given back as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.screen import OnTerminal

ROOT = Path(__file__).resolve().parents[2]
SETUP = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from threading import Event
from rich.text import Text
from pyegress.watch.terminal import Terminal
def wait(terminal): return terminal.wait(Event(), time.monotonic() + 60)
"""


def program(code: str) -> OnTerminal:
    """Code with a terminal."""
    return OnTerminal(sys.executable, "-c", SETUP + code)


def test_picture_takes_the_place_of_what_was_there() -> None:
    """And that comes back, with what is left behind below it."""
    code = """
print("before")
terminal = Terminal()
terminal.draw(Text("a picture"))
terminal.draw(Text(f"a picture {wait(terminal)}"))
wait(terminal)
terminal.close()
terminal.leave(Text("stays"))
"""
    with program(code) as screen:
        assert screen.wait_for("a picture")[0] == "a picture"
        assert screen.in_picture and not screen.is_restored
        screen.type(b"x")
        screen.wait_for("b'x'")  # it came at once, without a line's end
        screen.type(b"y")
        assert screen.end() == 0
        assert screen.is_restored
        assert screen.lines[:2] == ["before", "stays"]


def test_keys_are_not_shown_and_cant_leave_the_picture_behind() -> None:
    """ctrl-z and ctrl-backslash are keys like others; ctrl-c is not."""
    code = """
import signal
ended = Event()
signal.signal(signal.SIGINT, lambda *_: ended.set())
terminal = Terminal()
terminal.draw(Text("drawn"))
keys = b""
while not keys.endswith(b"."): keys += wait(terminal)
terminal.draw(Text(repr(keys)))
terminal.wait(ended, time.monotonic() + 3600)
terminal.close()
"""
    with program(code) as screen:
        screen.wait_for("drawn")
        screen.type(b"z\x1a\x1c.")
        assert screen.wait_for("x1c")[0] == "b'z\\x1a\\x1c.'"
        screen.type(b"\x03")
        assert screen.end() == 0
        assert screen.is_restored


def test_other_size_ends_the_wait() -> None:
    """The next picture has it; COLUMNS of the environment has no say."""
    code = """
import os
os.environ["COLUMNS"] = "33"
terminal = Terminal()
terminal.draw(Text("x" * 300, no_wrap=True, overflow="crop"))
wait(terminal)
terminal.draw(Text("y" * 300, no_wrap=True, overflow="crop"))
wait(terminal)
"""
    with program(code) as screen:
        screen.wait_for("x" * 80)
        screen.resize(120, 30)
        assert screen.wait_for("y" * 120)[1] == ""


def test_line_that_a_terminal_takes_for_too_long_is_no_two_lines() -> None:
    """Terminals and tables of widths don't agree on every sign."""
    code = """
terminal = Terminal()
sys.stdout.write("\\x1b[H" + "z" * 200)
sys.stdout.flush()
wait(terminal)
"""
    with program(code) as screen:
        assert screen.wait_for("zzz")[1] == ""


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_terminal_that_cant(term: str) -> None:
    """Is none."""
    with OnTerminal(
        sys.executable, "-c", SETUP + "sys.exit(Terminal.is_there())", env={"TERM": term}
    ) as screen:
        assert screen.end() == 0


def test_pipe_is_no_terminal() -> None:
    """Whatever variables are set that rich looks at."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + "sys.exit(Terminal.is_there())"],
        capture_output=True,
        check=False,
        env={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_terminal_without_a_size_has_the_usual_one() -> None:
    """As a serial line."""
    code = """
import fcntl, termios
fcntl.ioctl(1, termios.TIOCSWINSZ, bytes(8))
terminal = Terminal()
terminal.draw(Text(f"{terminal.size[0]}x{terminal.size[1]}"))
wait(terminal)
"""
    with program(code) as screen:
        screen.wait_for("80x24")


def test_locale_has_no_say() -> None:
    """The table is UTF-8, as all outputs are."""
    code = """
terminal = Terminal()
terminal.draw(Text("\\xfc\\u2026\\u6f22"))
wait(terminal)
"""
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    with OnTerminal(sys.executable, "-c", SETUP + code, env=environment) as screen:
        screen.wait_for("ü…漢")


def test_keys_of_another_stdin_are_left_alone(tmp_path: Path) -> None:
    """A pipe or a file on stdin is for somebody else."""
    code = """
terminal = Terminal()
terminal.draw(Text("drawn"))
wait_s = 0.2
assert terminal.wait(Event(), time.monotonic() + wait_s) == b""
terminal.close()
print(sys.stdin.read())
"""
    script = tmp_path / "script.py"
    script.write_text(SETUP + code)
    with OnTerminal("sh", "-c", f"echo data | {sys.executable} {script}") as screen:
        assert screen.end() == 0
        assert screen.is_restored
        assert screen.lines[0] == "data"

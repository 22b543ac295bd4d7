# SPDX-License-Identifier: MIT
"""The command line: words, exit codes, messages on stderr, signals, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result

from pyegress import __version__, plugin, registry
from pyegress.cli import program
from pyegress.errors import UnsupportedError
from pyegress.plugin import Batch, Context, Input
from pyegress.record import Connection, Process

ROOT = Path(__file__).parent.parent
PATIENCE = 30

FAKE = """
import os, signal, sys
from queue import Empty, SimpleQueue
sys.path.insert(0, {root!r})
from pyegress import cli, registry
from pyegress.plugin import Input, Options
from pyegress.record import Connection

class Endless(Input):
    name, summary, Options = "ebpf", "endless", Options
    def __init__(self, options): self.queue = SimpleQueue()
    def open(self, context): self.context = context
    def close(self): pass
    def stop(self): self.queue.put(None)
    def refresh_losses(self): self.context.losses.put("lost", "ring full", 3)
    def read(self):
        yield [Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)]
        while {endless}:
            try:
                if self.queue.get(block=False) is None: return
            except Empty:
                yield [Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)]
        self.queue.get()

registry.INPUTS["ebpf"] = "__main__:Endless"
cli.main()
"""


class BurstOptions(plugin.Options, frozen=True, kw_only=True):
    """Options of the fake input."""

    quiet: bool = False
    fails: bool = False
    bug: bool = False


class Burst(Input):
    """23 connections, then it waits for the stop unless it has one at once."""

    name = "ebpf"
    summary = "a fake"
    Options = BurstOptions

    def __init__(self, options: BurstOptions) -> None:
        self.options = options
        self.stopped: SimpleQueue[None] = SimpleQueue()

    def open(self, context: Context) -> None:
        if self.options.fails:
            raise UnsupportedError("ebpf: cannot attach: EPERM; needs CAP_BPF")
        if self.options.bug:
            raise TypeError("a\nb")

    def read(self) -> Iterator[Batch]:
        process = Process(pid=7, comm="curl", name="curl")
        yield [Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 9, process=process)] * 23

    def stop(self) -> None:
        self.stopped.put(None)

    def close(self) -> None:
        pass


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run the program with the fake input in place of ebpf."""
    monkeypatch.setitem(registry.INPUTS, "ebpf", f"{__name__}:Burst")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(program, list(arguments), prog_name="pyegress")

    return run


def test_outputs_and_stderr_are_kept_apart(invoke: Invoke, tmp_path: Path) -> None:
    """23 connections: 23 records in the file, 23 upstream lines and a summary on stderr."""
    log = tmp_path / "log"
    result = invoke("-i", "ebpf", "-o", "logfmt", "-O", f"logfmt:file:{log}")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert len(log.read_text().splitlines()) == 23
    lines = result.stderr.splitlines()
    assert lines.count("new TCP connection to 192.0.2.1:9(discard) by curl") == 23
    assert "pyegress: observing with ebpf; press ctrl-c to stop" in lines
    assert lines[-1] == "pyegress: 23 connections"


def test_quiet_input_has_no_lines(invoke: Invoke, tmp_path: Path) -> None:
    """`quiet` leaves banner and summary."""
    result = invoke("run", "--ebpf", "-I", "ebpf:quiet:true", "-o", "text", "-O", f"text:file:{tmp_path}/log")
    assert result.exit_code == 0
    assert "new TCP" not in result.stderr


class Asked(Burst):
    """An input of another name, which says what it was asked for."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.asked = {
            name: getattr(options, name) for name in ("group", "device", "file") if hasattr(options, name)
        }

    def open(self, context: Context) -> None:
        context.notice(f"asked for {self.asked}")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--nflog", "100"], "{'group': 100}"),
        (["--pcap", "eth0"], "{'device': 'eth0', 'file': ''}"),
        (["--pcap", "./x"], "{'device': '', 'file': './x'}"),
        (["--pcap", "-"], "{'device': '', 'file': '-'}"),
        (["-i", "nflog", "--nflog", "7"], "{'group': 7}"),
    ],
)
def test_shortcuts(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, arguments: list[str], asked: str) -> None:
    """Each stands for an input with its option; no other input is added."""
    name = "pcap" if "--pcap" in arguments else "nflog"
    plugin_class = registry.input_named(name)
    monkeypatch.setitem(registry.INPUTS, name, f"{__name__}:Asked")
    monkeypatch.setattr(Asked, "name", name)
    monkeypatch.setattr(Asked, "Options", plugin_class.Options)
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert f"asked for {asked}" in result.stderr
    assert f"observing with {name};" in result.stderr


def test_shortcut_and_its_option_are_given_twice(invoke: Invoke) -> None:
    """Both would have to be ignored in part."""
    result = invoke("--nflog", "100", "-I", "nflog:group:7")
    assert (result.exit_code, result.stderr) == (2, "pyegress: -I nflog:group: given twice\n")


@pytest.mark.parametrize(
    "arguments", [["rules-for", "nflog", "--group", "9"], ["rules-for", "nfqueue", "--firewall", "nft"]]
)
def test_rules_for_an_input_are_printed(invoke: Invoke, arguments: list[str]) -> None:
    """On stdout, with nothing done."""
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "pyegress" in result.stdout


def test_limit(invoke: Invoke, tmp_path: Path) -> None:
    """-C 5 of 23: five."""
    log = tmp_path / "log"
    result = invoke("-C", "5", "-O", f"text:file:{log}")
    assert result.exit_code == 0
    assert len(log.read_text().splitlines()) == 5
    assert result.stderr.endswith("pyegress: 5 connections\n")


def test_value_may_hold_colons(invoke: Invoke, tmp_path: Path) -> None:
    """Only the first two colons divide."""
    log = tmp_path / "a:b:c"
    assert invoke("-O", f"text:file:{log}").exit_code == 0
    assert log.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "no such command 'rnu'; did you mean 'run'?"),
        (["--debg"], "no such option '--debg'; did you mean '--debug'?"),
        (["-i", "epbf"], "no such input 'epbf'; did you mean 'ebpf'?"),
        (["-o", "logfnt"], "no such output 'logfnt'; did you mean 'logfmt'?"),
        (
            ["-o", "\x1b[2J"],
            "no such output '\\u001b[2J'; known: iptables, journal, json, logfmt, loki, "
            "nftables, prometheus, sqlite, table, text",
        ),
        (["-I", "ebpf:quite:true"], "-I ebpf:quite: no such option; did you mean 'quiet'?"),
        (["-I", "ebpf:quiet:maybe"], "-I ebpf:quiet:maybe: must be true or false"),
        (["-I", "ebpf:quiet"], "-I ebpf:quiet: must be PLUGIN:KEY:VALUE"),
        (["-I", ""], "-I : must be PLUGIN:KEY:VALUE"),
        (["-O", "logfmt:file:x"], "-O logfmt:file: output is not in use; add -o logfmt"),
        (["-O", "logfnt:file:x"], "no such output 'logfnt'; did you mean 'logfmt'?"),
        (["-o", "text", "-o", "text"], "-o text: given twice"),
        (["-C", "0"], "-C 0: must be at least 1"),
        (["-C", "x"], "-C x: must be a whole number"),
        (["-t", "5"], "-t 5: must be a duration with a unit such as 10s, 1h30m, 500ms"),
        (["--ready-fd", "99999"], "--ready-fd 99999: must be an open file descriptor"),
        (["run", "surplus"], "got unexpected extra argument (surplus)"),
        (["-o"], "option '-o' requires an argument"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(invoke: Invoke, arguments: list[str], message: str) -> None:
    """The word that is wrong, and what is right."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"pyegress: {message}\n", "")


def test_input_that_cant_open_is_one_line_and_exit_1(invoke: Invoke) -> None:
    """The plugin's own text, no banner."""
    result = invoke("-I", "ebpf:fails:true")
    assert (result.exit_code, result.stderr) == (1, "pyegress: ebpf: cannot attach: EPERM; needs CAP_BPF\n")


def test_internal_error(invoke: Invoke) -> None:
    """One line; the traceback only with --debug."""
    line = "pyegress: internal error: TypeError: a\\nb; run with --debug for the traceback\n"
    result = invoke("-I", "ebpf:bug:true")
    assert (result.exit_code, result.stderr) == (1, line)
    result = invoke("--debug", "-I", "ebpf:bug:true")
    assert result.stderr.startswith("Traceback") and result.stderr.endswith(line)


def test_schema(invoke: Invoke) -> None:
    """What `-o json` writes, as JSON Schema."""
    result = invoke("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("arguments", [["list"], ["-l"], ["--list"], ["run", "-l"], ["-i", "ebpf", "-l"]])
def test_list(invoke: Invoke, arguments: list[str]) -> None:
    """Every spelling lists and exits 0."""
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "  ebpf: a fake\n    quiet  (bool; default false)\n" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["-V"], ["--version"], ["run", "-V"], ["version"]])
def test_version(invoke: Invoke, arguments: list[str]) -> None:
    """The version is on stdout."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (0, f"pyegress {__version__}\n")


def test_no_arguments_is_help(invoke: Invoke) -> None:
    """Nothing is observed by accident."""
    result = invoke()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: pyegress")


def test_ready_file_and_fd(invoke: Invoke, tmp_path: Path) -> None:
    """Both say `ready`; no temporary file is left behind."""
    reader, writer = os.pipe()
    result = invoke(
        "-O", f"text:file:{tmp_path}/log", "--ready-file", f"{tmp_path}/up", "--ready-fd", str(writer)
    )
    assert result.exit_code == 0
    assert (tmp_path / "up").read_text() == "ready\n"
    assert os.read(reader, 100) == b"ready\n"
    os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "up"]


def test_ready_file_that_cant_be_made(invoke: Invoke, tmp_path: Path) -> None:
    """It is an error, not a silence that somebody waits on."""
    result = invoke("-O", f"text:file:{tmp_path}/log", "--ready-file", f"{tmp_path}/no/up")
    assert result.exit_code == 1
    assert f"pyegress: --ready-file {tmp_path}/no/up: No such file or directory\n" in result.stderr


def test_user_of_a_process_that_is_not_its_own(invoke: Invoke) -> None:
    """Whoever calls pyegress as a function stays who it is."""
    result = invoke("--user", "root")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "pyegress: --user root: this process is not pyegress's alone\n"


def test_priority_of_a_process_that_is_not_its_own(invoke: Invoke, tmp_path: Path) -> None:
    """Nor does its priority change."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    result = invoke("--nice", "-4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "pyegress: --nice -4: this process is not pyegress's alone\n"
    assert invoke("-C", "1", "-O", f"text:file:{tmp_path}/log").exit_code == 0
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_nice_that_is_none(invoke: Invoke) -> None:
    """A wrong number is one of usage."""
    result = invoke("--nice", "20")
    assert (result.exit_code, result.stderr) == (2, "pyegress: --nice 20: must be from -20 to 19\n")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """The program in a process of its own, with a fake input that gives one connection or endless ones."""
    started = []

    def launch(
        *arguments: str, endless: bool = False, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        script = tmp_path / "fake.py"
        script.write_text(FAKE.format(root=str(ROOT), endless=endless))
        command = [sys.executable, str(script), *arguments]
        process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    """Read stderr up to a line that holds the text."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}: {seen}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_with_everything_written(start: Start, number: signal.Signals) -> None:
    """A lone connection is visible through a pipe while running; the signal ends with 0 and a summary."""
    process = start("run")
    assert process.stdout is not None
    assert "192.0.2.1:443" in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-2:] == ["pyegress: 1 connection", "pyegress: lost: 3 ring full"]
    assert "Traceback" not in err


def test_sigusr1_says_what_was_counted(start: Start) -> None:
    """The summary comes while running, too."""
    process = start("run", "--ebpf")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    lines = [process.stderr.readline() for _ in range(3)]
    assert lines[1:] == ["pyegress: 1 connection\n", "pyegress: lost: 3 ring full\n"]
    assert process.poll() is None


def test_prometheus_gets_the_kernels_counters_and_the_queues_as_they_are(start: Start) -> None:
    """Though nobody asked for a summary."""
    process = start("-o", "prometheus", "-O", "prometheus:listen:127.0.0.1:0", "-o", "text")
    assert process.stdout is not None and process.stderr is not None
    address = process.stderr.readline().removeprefix("pyegress: prometheus: ").strip()
    process.stdout.readline()
    with urlopen(address, timeout=PATIENCE) as answer:
        found = answer.read().decode().splitlines()
    assert 'pyegress_lost_total{reason="ring full",stage="lost"} 3.0' in found
    assert 'pyegress_queued_records{output="text"} 0.0' in found
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in err


def test_sighup_reopens(start: Start, tmp_path: Path) -> None:
    """After a rotation, SIGHUP makes the file again; SIGTERM then ends the run in order."""
    log, rotated = tmp_path / "log", tmp_path / "log.1"
    process = start("-o", "text", "-O", f"text:file:{log}")
    assert process.stderr is not None
    wait_for("new TCP", process)
    log.rename(rotated)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    wait_for("1 connection", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert log.exists() and rotated.exists()


def test_reader_gone(start: Start) -> None:
    """`| head -1`: the status of SIGPIPE, no traceback, no further word on the pipe."""
    process = start("run", endless=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(PATIENCE) == 141
    assert "Traceback" not in err and "Broken" not in err and "Exception" not in err


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_full_disk_is_an_error(start: Start, arguments: list[str]) -> None:
    """/dev/full is said and exits 1."""
    with Path("/dev/full").open("w") as full:
        process = start(*(arguments or ["run"]), stdout=full.fileno())
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "No space left on device" in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", ["list", "-i ebpf"])
def test_closed_stdout_is_an_error(start: Start, tmp_path: Path, arguments: str) -> None:
    """`>&-` is said and exits 1; nothing that is opened later takes its number."""
    start("-V").wait(PATIENCE)
    command = f"exec {sys.executable} {tmp_path}/fake.py {arguments} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "standard output" in done.stderr and "Traceback" not in done.stderr

# SPDX-License-Identifier: MIT
"""The table output: its options, where it refuses, how it ends. What is seen is in tests/test_top_command.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyegress import options
from pyegress.errors import UsageError
from pyegress.losses import Losses
from pyegress.outputs.table import Table, TableOptions
from pyegress.plugin import Context
from tests.screen import OnTerminal

ROOT = Path(__file__).resolve().parents[2]
SETUP = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from threading import Event
from pyegress.losses import Losses
from pyegress.messages import stage
from pyegress.outputs.table import Table, TableOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
asked = Event()
context = Context(Losses(), print, print, stop=asked.set, occupy=stage.occupy)
def to(address, port=443, name="curl"):
    return Connection(1, "ebpf", "tcp", 4, address, port, process=Process(pid=port, name=name))
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("by", "user"), "-O table:by:user: must be one of process, destination, both"),
        (("sort", "bytes"), "-O table:sort:bytes: must be one of rate, count, new, name"),
        (("rows", "0"), "-O table:rows:0: must be 1..100000"),
        (("interval", "1ms"), "-O table:interval:1ms: must be 100ms..1h"),
    ],
)
def test_options_that_cant_be(given: tuple[str, str], message: str) -> None:
    """Are told with what can."""
    with pytest.raises(UsageError) as raised:
        options.parse("-O", "table", TableOptions, [given])
    assert str(raised.value) == message


def test_no_terminal_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is taken, and nothing is written."""
    output = Table(TableOptions())
    with pytest.raises(UsageError, match="use -o text or -o logfmt"):
        output.open(Context(Losses(), print, print, occupy=lambda painter: pytest.fail("taken")))
    output.close()
    assert capfd.readouterr() == ("", "")


def test_order_and_rows_as_asked_for() -> None:
    """By destination, most in all first; the picture stays behind when it is closed, which may be twice."""
    code = """
output = Table(TableOptions(by="destination", sort="count", rows=2))
output.open(context)
output.write([to("192.0.2.1"), to("192.0.2.2")] + [to("192.0.2.3")] * 2 + [to("192.0.2.2")] * 3)
asked.wait()
output.close()
output.close()
print("behind")
"""
    with OnTerminal(sys.executable, "-c", SETUP + code) as screen:
        screen.wait_for("192.0.2.3")
        screen.type(b"q")
        assert screen.end() == 0
        assert screen.is_restored
        found = [line.split() for line in screen.lines]
        assert found[1] == ["RATE", "TOTAL", "DESTINATION", "PROCESS", "PID"]
        assert [words[2:] for words in found[2:4]] == [
            ["4", "192.0.2.2:443/tcp", "curl", "443"],
            ["2", "192.0.2.3:443/tcp", "curl", "443"],
        ]
        assert (
            "rows: 1 not seen for longest were let go and would be new again (-O table:rows)" in screen.lines
        )
        assert "behind" in screen.lines


def test_terminal_that_has_gone_is_an_error_at_the_end(tmp_path: Path) -> None:
    """The run is ended; the reason is told to who closes it."""
    code = """
from pyegress.errors import OutputError
output = Table(TableOptions(interval=10**8))
output.open(context)
result = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.write(result, b"up\\n")
asked.wait()
try: output.close()
except OutputError as error: os.write(result, str(error).encode())
"""
    result = tmp_path / "result"
    with OnTerminal(sys.executable, "-c", SETUP + code, str(result)) as screen:
        screen.wait_for("no connection so far")
        while not (result.exists() and result.read_text()):
            screen.look()
        screen.hang_up()
        assert screen.process.wait(30) == 0
    assert result.read_text() == "up\ntable: the terminal has gone: Input/output error"

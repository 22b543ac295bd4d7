# SPDX-License-Identifier: MIT
"""What journald has of a connection, asked from a real one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs import journal
from pyegress.outputs.journal import Journal, JournalOptions, fields
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.journald import Journald, needs_journald

HOSTILE = 'x\nMESSAGE=forged y=1 "\\\x1b[2J\u202e' + b"\xff".decode(errors="surrogateescape")
HOSTILE_SHOWN = 'x\\nMESSAGE=forged y=1 "\\\\\\u001b[2J\\u202e\\udcff'


@pytest.fixture(scope="module")
def journald() -> Iterator[Journald]:
    # Not in tmp_path, whose name is too long for a socket.
    with tempfile.TemporaryDirectory() as folder:
        running = Journald(Path(folder))
        try:
            yield running
        finally:
            running.stop()


@contextmanager
def opened(**options: object) -> Iterator[tuple[Journal, Losses, list[str]]]:
    output = Journal(JournalOptions(**options))  # type: ignore[arg-type]
    losses: Losses = Losses()
    said: list[str] = []
    output.open(Context(losses, said.append, print))
    try:
        yield output, losses, said
    finally:
        output.close()
        output.close()


def connection(port: int, **changes: object) -> Connection:
    process = Process(
        pid=300, name="curl", cmdline="curl -H Authorization: Bearer geheim x", user="root", uid=0
    )
    given: dict[str, object] = {"process": process, "attribution": "kernel"}
    return Connection(1_700_000_000_123_456_789, "ebpf", "tcp", 4, "192.0.2.1", port, **(given | changes))  # type: ignore[arg-type]


def line(one: Connection) -> str:
    return Logfmt(LogfmtOptions()).lines([one]).rstrip("\n")


@needs_journald
def test_fields_and_message(journald: Journald) -> None:
    """The message is the line of logfmt, whole, and each of its values can be searched for."""
    with opened(socket=journald.socket) as (output, losses, said):
        output.write([connection(1001), connection(1002)])
    first, second = journald.entries()[-2:]
    assert first["MESSAGE"] == line(connection(1001))
    assert {key: value for key, value in second.items() if key.startswith("PYEGRESS_")} == {
        "PYEGRESS_TS": "2023-11-14T22:13:20.123456789Z",
        "PYEGRESS_HOOK": "ebpf",
        "PYEGRESS_PROTOCOL": "tcp",
        "PYEGRESS_DEST_IP": "192.0.2.1",
        "PYEGRESS_DEST_PORT": "1002",
        "PYEGRESS_IP_VERSION": "4",
        "PYEGRESS_PROC_NAME": "curl",
        "PYEGRESS_PROC_PID": "300",
        "PYEGRESS_PROC_USER": "root",
        "PYEGRESS_PROC_UID": "0",
        "PYEGRESS_PROC_CMDLINE": "curl -H Authorization: *** x",
        "PYEGRESS_ATTRIBUTION": "kernel",
    }
    assert (second["SYSLOG_IDENTIFIER"], second["PRIORITY"], second["_TRANSPORT"]) == (
        "pyegress",
        "6",
        "journal",
    )
    assert losses.snapshot() == {} and said == []


@needs_journald
def test_hostile_text_stays_in_its_field(journald: Journald) -> None:
    """No field is forged, and all is text, so that journalctl shows it."""
    process = Process(pid=1, name=HOSTILE, cmdline=HOSTILE)
    with opened(socket=journald.socket) as (output, _, _):
        output.write([connection(1003, process=process)])
    entry = journald.entries()[-1]
    assert entry["MESSAGE"] == line(connection(1003, process=process))
    assert entry["PYEGRESS_PROC_NAME"] == entry["PYEGRESS_PROC_CMDLINE"] == HOSTILE_SHOWN
    assert "PYEGRESS_Y" not in entry


@needs_journald
def test_a_long_command_line_comes_whole(journald: Journald) -> None:
    """Beyond what a datagram holds."""
    process = Process(pid=1, name="x", cmdline="a " * 200_000)
    with opened(socket=journald.socket) as (output, losses, _):
        output.write([connection(1004, process=process)])
    assert journald.entries()[-1]["PYEGRESS_PROC_CMDLINE"] == "a " * 200_000
    assert losses.snapshot() == {}


@needs_journald
def test_syslog(journald: Journald) -> None:
    with opened(to="syslog", socket=journald.dev_log, redact=False) as (output, losses, _):
        output.write([connection(1005), connection(1006)])
    first, second = journald.entries()[-2:]
    assert second["MESSAGE"] == Logfmt(LogfmtOptions(redact=False)).lines([connection(1006)]).rstrip("\n")
    assert "dest_port=1005" in first["MESSAGE"] and "geheim" in first["MESSAGE"]
    assert (first["SYSLOG_IDENTIFIER"], first["PRIORITY"], first["SYSLOG_FACILITY"], first["_TRANSPORT"]) == (
        *("pyegress", "6", "3"),
        "syslog",
    )
    assert losses.snapshot() == {}


@needs_journald
@pytest.mark.parametrize("to", ["journal", "syslog"])
def test_a_daemon_that_is_started_again_costs_nothing(journald: Journald, to: str) -> None:
    """It is waited for."""
    path = journald.socket if to == "journal" else journald.dev_log
    with opened(to=to, socket=path) as (output, losses, said):
        output.write([connection(2001)])
        # So that it is stopped for sure when the next comes, and nothing is left in a buffer that dies with it.
        assert "dest_port=2001" in journald.entries()[-1]["MESSAGE"]
        journald.stop()
        again = Thread(target=journald.start)
        again.start()
        output.write([connection(2002), connection(2003)])
        again.join()
    assert ["dest_port=2002" in entry["MESSAGE"] for entry in journald.entries()[-2:]] == [True, False]
    assert losses.snapshot() == {} and said == []


@needs_journald
def test_a_daemon_that_stays_away_is_said_and_what_is_lost_is_counted(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_PATIENCE_S", 0.2)
    with opened(socket=journald.socket) as (output, losses, said):
        journald.stop()
        output.write([connection(3001), connection(3002)])
        output.write([connection(3003)])
        assert said == [
            f"journal: {journald.socket}: Connection refused; connections are lost until it is back"
        ]
        journald.start()
        output.write([connection(3004)])
        assert said[1:] == [f"journal: {journald.socket} is back"]
    assert losses.snapshot() == {("lost", "output journal: the journal took none"): 3}
    assert "dest_port=3004" in journald.entries()[-1]["MESSAGE"]


@pytest.mark.parametrize(("to", "other"), [("journal", "syslog"), ("syslog", "journal")])
def test_no_daemon_is_one_line(to: str, other: str) -> None:
    with pytest.raises(OutputError) as raised, opened(to=to, socket="/nonexistent/socket"):
        pass
    assert str(raised.value) == (
        f"journal: no {to} at /nonexistent/socket: No such file or directory;"
        f" name its socket, or try -O journal:to:{other}"
    )
    with pytest.raises(OutputError, match="AF_UNIX path too long"), opened(to=to, socket="/" + "x" * 200):
        pass


def test_names_of_fields_are_what_journald_takes() -> None:
    """Upper case, digits and underscores; an empty value stays one."""
    process = Process(pid=1, name="", cmdline='a "b" \\', parent=Process(pid=2, name="c"))
    found = dict(fields(line(connection(1, process=process))))
    assert all(key.isascii() and key.replace("_", "").isalnum() and key.isupper() for key in found)
    assert (found["PYEGRESS_PROC_NAME"], found["PYEGRESS_PROC_CMDLINE"]) == ("", 'a "b" \\\\')

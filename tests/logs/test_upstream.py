# SPDX-License-Identifier: MIT
"""Lines of egress-auditor."""

from __future__ import annotations

import pytest

from pyegress.logs import upstream
from pyegress.logs.logfmt import LogfmtReader
from pyegress.record import Connection, Process

LINE = (
    b"ts=2026-03-01T10:00:00Z hook=nflog protocol=tcp dest_ip=146.148.13.123 dest_port=443 ip_version=4"
    b' proc_name=curl proc_pid=300 proc_user=ubuntu proc_cmdline="curl https://www.devops.works/?a=\\"b\\""'
    b" parent_name=bash parent_pid=20 parent_user=ubuntu"
)
CURL = Process(
    pid=300,
    name="curl",
    user="ubuntu",
    cmdline='curl https://www.devops.works/?a="b"',
    parent=Process(pid=20, name="bash", user="ubuntu"),
)
RECORD = Connection(
    ts=1_772_359_200_000_000_000,
    hook="nflog",
    protocol="tcp",
    ip_version=4,
    dest_ip="146.148.13.123",
    dest_port=443,
    process=CURL,
)


def process(line: bytes) -> Process | None:
    return LogfmtReader().connection(line).process


def test_line() -> None:
    reader = LogfmtReader()
    assert upstream.wrote(LINE)
    assert reader.connection(LINE) == RECORD
    first, second = reader.connection(LINE).process, reader.connection(LINE.replace(b"443", b"80")).process
    assert first is not None and first is second


def test_grandparent() -> None:
    found = process(LINE + b" grandparent_name=init grandparent_pid=1 grandparent_user=root")
    assert found is not None and found.parent is not None
    assert found.parent.parent == Process(pid=1, name="init", user="root")


def test_what_it_does_not_know_is_not_known() -> None:
    """It writes nothing, or 0."""
    line = LINE[: LINE.index(b" proc_name")]
    assert process(line + b" proc_name= proc_pid=0 proc_user= proc_cmdline=") is None
    assert process(
        line + b" proc_name=a proc_pid=0 proc_user= proc_cmdline= parent_name= parent_pid=0"
    ) == Process(name="a")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"--url=http://a/?b=c", "--url=http://a/?b=c"),
        (b"\xc3\xa9", "é"),
        (b"\xff", "\udcff"),
        (b'"a\\xff \\x1b\\a\\u202e\\U000e0001"', "a\udcff \x1b\a\u202e\U000e0001"),
        (b'"a\\\\x41 src_port=1"', "a\\x41 src_port=1"),
    ],
)
def test_text(written: bytes, text: str) -> None:
    """Quoted by Go's rules, or as it was."""
    begin, end = LINE.index(b"proc_cmdline="), LINE.index(b" parent_name")
    found = process(LINE[:begin] + b"proc_cmdline=" + written + LINE[end:])
    assert found is not None and found.cmdline == text


def test_address_decides_the_version() -> None:
    """It says 6 of an IPv4 address on an IPv6 socket."""
    assert LogfmtReader().connection(LINE.replace(b"ip_version=4", b"ip_version=6")) == RECORD


@pytest.mark.parametrize("end", range(1, len(LINE)))
def test_cut_line_joined_by_the_next_one_is_no_record(end: int) -> None:
    with pytest.raises(ValueError):
        LogfmtReader().connection(LINE[:end] + LINE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"=curl ", b"=a b "),
        (b"=curl ", b'=a"b '),
        (b'\\"b', b"\\ud800"),
        (b'\\"b', b"\\q"),
        (b"pid=300", b"pid=x"),
    ],
)
def test_damaged_line_is_no_record(old: bytes, new: bytes) -> None:
    with pytest.raises(ValueError):
        LogfmtReader().connection(LINE.replace(old, new))

# SPDX-License-Identifier: MIT
"""What the logfmt output wrote comes back, and nothing that it can't have written."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.logs.logfmt import LogfmtReader
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process
from tests.logs.records import connections

LINE = (
    b"ts=2023-11-14T22:13:20.123456789Z hook=ebpf protocol=udp dest_ip=192.0.2.1 dest_port=443 ip_version=4"
    b' proc_name=curl proc_pid=300 proc_cmdline="curl a b" src_ip=10.0.0.1 src_port=60166 count=3 proc_uid=1000'
    b" attribution=kernel dest_names=a.example,b.example verdict=accept"
)
RECORD = Connection(
    ts=1_700_000_000_123_456_789,
    hook="ebpf",
    protocol="udp",
    ip_version=4,
    dest_ip="192.0.2.1",
    dest_port=443,
    src_ip="10.0.0.1",
    src_port=60166,
    count=3,
    process=Process(pid=300, name="curl", cmdline="curl a b", uid=1000),
    attribution="kernel",
    dest_names=("a.example", "b.example"),
    verdict="accept",
)
_GENERATIONS = 3
_OF_RELATIVES = ("name", "pid", "user", "exe")
_NOT_WRITTEN = {"start_ns": None, "comm": None, "parent": None}


def line_of(connection: Connection) -> bytes:
    return Logfmt(LogfmtOptions(redact=False)).lines([connection]).removesuffix("\n").encode()


def written(connection: Connection) -> Connection:
    """What of a record a line of logfmt holds."""
    return msgspec.structs.replace(
        connection,
        src_ip=connection.src_ip or None,
        tid=None,
        process=_written(connection),
        dest_names=tuple(name for name in ",".join(connection.dest_names).split(","))
        if ",".join(connection.dest_names)
        else (),
    )


def _written(connection: Connection) -> Process | None:
    generations: list[Process] = []
    process = connection.process
    while process is not None and len(generations) < _GENERATIONS:
        generations.append(process)
        process = process.parent
    found: Process | None = None
    how = connection.attribution
    for at, one in reversed(list(enumerate(generations))):
        fields = {name: getattr(one, name) for name in (_OF_RELATIVES if at else Process.__struct_fields__)}
        fields["name"] = one.comm if one.name is None else one.name
        if not at:
            fields |= _NOT_WRITTEN
            fields["netns"] = None if one.netns == connection.netns else one.netns
        fields["attribution"] = "kernel"
        if found is not None or Process(**fields) != Process():
            fields["attribution"] = "kernel" if how is None else how
            found = Process(**(fields | {"parent": found}))
    return found


@given(connections)
def test_round_trip(connection: Connection) -> None:
    """Whatever a process calls itself."""
    assert LogfmtReader().connection(line_of(connection)) == written(connection)


@given(st.lists(connections, max_size=4), st.data())
def test_round_trip_of_what_comes_again(some: list[Connection], data: st.DataObject) -> None:
    """Lines that share parts don't mix them up, and equal processes are one object."""
    reader = LogfmtReader()
    processes: dict[Process, Process] = {}
    for _ in range(3):
        for connection in some:
            mixed = msgspec.structs.replace(
                connection,
                ts=data.draw(st.integers(1, 10**10)),
                src_port=data.draw(st.none() | st.integers(0, 65535)),
                process=data.draw(st.sampled_from(some)).process,
            )
            found = reader.connection(line_of(mixed))
            assert found == written(mixed)
            if found.process is not None:
                assert processes.setdefault(found.process, found.process) is found.process


def test_line() -> None:
    assert LogfmtReader().connection(LINE) == RECORD


def test_keys_in_another_order_and_unknown_ones() -> None:
    """What a newer version adds is ignored, and so is what a tool did to the order."""
    reader = LogfmtReader()
    pairs = LINE.replace(b'"curl a b"', b'"curl\\u0020a\\u0020b"').split(b" ")
    for order in (
        pairs[:2] + pairs[:1:-1],
        [*pairs[1:], pairs[0]],
        [*pairs[:8], b"new=1", b'newer="x y"', *pairs[8:]],
    ):
        assert reader.connection(b" ".join(order)) == RECORD
    assert reader.connection(LINE + b" new=1") == RECORD
    assert reader.connection(LINE + b"\r") == RECORD


@pytest.mark.parametrize("end", range(len(LINE)))
def test_cut_line_joined_by_the_next_one_is_no_record(end: int) -> None:
    """A crash ends a line anywhere, and the next run appends to it."""
    reader = LogfmtReader()
    reader.connection(LINE)
    if end:
        with pytest.raises(ValueError):
            reader.connection(LINE[:end] + LINE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"dest_ip=192.0.2.1", b"dest_ip=192.0.2"),
        (b"dest_ip=192.0.2.1", b"dest_ip=::1"),
        (b"dest_ip=192.0.2.1", b'dest_ip="$(reboot)"'),
        (b"dest_ip=192.0.2.1 ", b""),
        (b"hook=ebpf ", b""),
        (b"hook=ebpf", b'hook=""'),
        (b"protocol=udp ", b""),
        (b"ip_version=4", b"ip_version=5"),
        (b" ip_version=4", b""),
        (b"dest_port=443", b"dest_port=65536"),
        (b"dest_port=443", b"dest_port=-1"),
        (b"dest_port=443", b"dest_port="),
        (b"src_port=60166", b"src_port=70000"),
        (b"src_port=60166", b"src_port=601a"),
        (b"src_port=60166", b"src_port=60166 src_port=60166"),
        (b"count=3", b"count=0"),
        (b"count=3", b"count=3 count=3"),
        (b"count=3", b"count=99999999999999999999"),
        (b"proc_pid=300", b"proc_pid=3_0"),
        (b"proc_pid=300", "proc_pid=٣".encode()),
        (b"proc_uid=1000", b"proc_uid=1000 hook=x"),
        (b"proc_uid=1000", b"proc_uid=1000 verdict=x"),
        (b"proc_uid=1000", b"proc_uid=1000 proc_cmdline_cut=no"),
        (b"verdict=accept", b"verdict=accept hook=x"),
        (b"verdict=accept", b"verdict=accept verdict=x"),
        (b"curl a b", b"curl a\xff"),
        (b"curl a b", b"curl a\x1b"),
        (b"curl a b", b"curl\ta"),
        (b"curl a b", b'curl " b'),
        (b"curl a b", rb"curl \x41"),
        (b"curl a b", rb"curl \ud800"),
        (b"curl a b", rb"curl \udc41"),
        (b"=curl ", b"=curl  "),
        (b"22:13:20", b"22:13:60"),
        (b"2023-11-14", b"2023-02-30"),
        (b".123456789Z", b".12345678_Z"),
        (b".123456789Z", b".123456789+"),
    ],
)
def test_damaged_line_is_no_record(old: bytes, new: bytes) -> None:
    reader = LogfmtReader()
    reader.connection(LINE)
    assert old in LINE
    with pytest.raises(ValueError):
        reader.connection(LINE.replace(old, new))
    assert reader.connection(LINE) == RECORD


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_garbage_is_no_record(data: bytes) -> None:
    with pytest.raises(ValueError):
        LogfmtReader().connection(data)


@given(st.data())
def test_one_byte_changed_is_never_a_crash(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(LINE) - 1))
    line = LINE[:at] + data.draw(st.binary(max_size=3)) + LINE[at + 1 :]
    try:
        found = LogfmtReader().connection(line)
    except ValueError:
        return
    line_of(found)

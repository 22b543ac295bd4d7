# SPDX-License-Identifier: MIT
"""Records as JSON, there and back."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.logs.jsonl import Decoder, Encoder, Line, ProcessLine, schema
from pyegress.record import Connection, Process
from tests.logs.records import connections

RECORD = Connection(
    1, "ebpf", "udp", 4, "192.0.2.1", 443, process=Process(pid=1, name="a", parent=Process(pid=0))
)
LINE = (
    b'{"ts":"1970-01-01T00:00:00.000000001Z","hook":"ebpf","protocol":"udp","ip_version":4,"dest_ip":"192.0.2.1",'
    b'"dest_port":443,"count":1,"direction":"out",'
    b'"process":{"pid":1,"name":"a","attribution":"kernel","parent":{"pid":0,"attribution":"kernel"}}}'
)


@given(st.lists(connections, max_size=3))
def test_round_trip(some: list[Connection]) -> None:
    """Whatever a process calls itself: each line is one object, printable, and gives back the equal record."""
    encoder, decoder = Encoder(), Decoder()
    lines = encoder.lines(some + some).decode().removesuffix("\n").split("\n") if some else []
    assert [decoder.connection(line.encode()) for line in lines] == some + some
    for line in lines:
        assert line.isprintable()
        json.loads(line)


def test_line() -> None:
    """What is not known is absent, what is known is there."""
    assert Encoder().lines([RECORD]) == LINE + b"\n"
    assert Decoder().connection(LINE) == RECORD


def test_no_time_is_absent() -> None:
    line = Encoder().lines([msgspec.structs.replace(RECORD, ts=0)])
    assert b'"ts"' not in line
    assert Decoder().connection(line).ts == 0


def test_equal_processes_are_one_object() -> None:
    decoder = Decoder()
    first, second = decoder.connection(LINE), decoder.connection(LINE.replace(b"443", b"80"))
    assert first.process is second.process


def test_caches_never_mix_records_up() -> None:
    encoder = Encoder()
    for at in range(20_000):
        # Each Process dies at once, so that ids repeat.
        given = Connection(
            at, "ebpf", "tcp", 4, "192.0.2.1", 1, process=Process(pid=at, parent=Process(pid=at + 1))
        )
        found = json.loads(encoder.lines([given]))["process"]
        assert (found["pid"], found["parent"]["pid"]) == (at, at + 1)


def test_unknown_keys_are_ignored() -> None:
    line = LINE.replace(b'"count"', b'"new":{"a":[1,null]},"count"').replace(
        b'"pid":1', b'"pid":1,"newer":0.5'
    )
    assert Decoder().connection(line + b"\r") == RECORD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{", b"["),
        (b'"ebpf"', b'""'),
        (b'"ebpf"', b"null"),
        (b'"ebpf"', b'"\xff"'),
        (b'"ebpf"', b'"\\udcff"'),
        (b'"ebpf"', b'"\\\\x41"'),
        (b'"ebpf"', b'"\\u001b"'),
        (b'"name":"a"', b'"name":"\\n"'),
        (b'"name":"a"', b'"name":"\\\\ud800"'),
        (b'"name":"a"', b'"name":1'),
        (b'"pid":1', b'"pid":-1'),
        (b'"pid":1', b'"pid":1e99'),
        (b'"ip_version":4', b'"ip_version":6'),
        (b'"ip_version":4', b'"ip_version":5'),
        (b"192.0.2.1", b"192.0.2"),
        (b"192.0.2.1", b"$(reboot)"),
        (b"443", b"65536"),
        (b'"count":1', b'"count":0'),
        (b'"count":1,', b""),
        (b"00:00:00.0", b"00:00:61.0"),
        (b"}}}", b"}}}}"),
        (b'"parent":{"pid":0', b'"parent":{"pid":0,"x":' + b"[" * 100_000),
        (b'"parent":', b'"parent":{"attribution":"kernel","parent":' * 500 + b'"parent":'),
        (b'"pid":1', b'"parent":{"attribution":"a","parent":' * 100 + b"{" + b"}" * 100),
    ],
)
def test_damaged_line_is_no_record(old: bytes, new: bytes) -> None:
    decoder = Decoder()
    assert old in LINE
    with pytest.raises(ValueError):
        decoder.connection(LINE.replace(old, new, 1))
    assert decoder.connection(LINE) == RECORD


def test_too_many_ancestors_are_no_record() -> None:
    process = None
    for at in range(100):
        process = Process(pid=at, parent=process)
    with pytest.raises(ValueError, match="ancestors"):
        Decoder().connection(Encoder().lines([msgspec.structs.replace(RECORD, process=process)]))


@pytest.mark.parametrize("end", range(len(LINE)))
def test_cut_line_is_no_record(end: int) -> None:
    for line in LINE[:end], LINE[:end] + LINE if end else b"":
        with pytest.raises(ValueError):
            Decoder().connection(line)


@pytest.mark.parametrize(("record", "line"), [(Connection, Line), (Process, ProcessLine)])
def test_every_field_of_the_record_is_written(
    record: type[msgspec.Struct], line: type[msgspec.Struct]
) -> None:
    """In the record's order."""
    assert line.__struct_fields__ == record.__struct_fields__


def test_schema_says_what_is_there() -> None:
    """No field is ever null, and only what every record has is required."""
    made = schema()
    json.dumps(made)
    line, process = made["$defs"]["Line_ProcessLine_"], made["$defs"]["ProcessLine"]
    assert set(line["properties"]) == set(Connection.__struct_fields__)
    assert set(process["properties"]) == set(Process.__struct_fields__)
    assert line["required"] == ["hook", "protocol", "ip_version", "dest_ip", "count", "direction"]
    assert process["required"] == ["attribution"]
    assert "null" not in json.dumps(made)
    for field in (*line["properties"].values(), *process["properties"].values()):
        assert field["description"]
    assert "RFC 3339" in line["properties"]["ts"]["description"]
    assert process["properties"]["comm"]["description"].startswith("The kernel's name of the process")

# SPDX-License-Identifier: MIT
"""What repeats in a log is counted as if each line had been read."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyegress.logs import repeats
from pyegress.logs.jsonl import Decoder, Encoder
from pyegress.logs.logfmt import LogfmtReader
from pyegress.logs.repeats import Form, Repeating
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process, Repeats
from tests.logs.records import connections
from tests.logs.test_logfmt import LINE

START_NS = 1_700_000_000_123_456_789
CURL = Process(pid=300, name="curl", cmdline="curl a b")
POSING = [
    " src_port=1 count=5 ",
    '" src_port=1 count=5 a="',
    ',"src_port":1,"count":5,',
    "\n src_port=7",
    "x src_port=3",
]
FORMS: tuple[type[Form], type[Form]] = LogfmtReader, Decoder
forms = pytest.mark.parametrize("form", FORMS, ids=["logfmt", "json"])

Sums = dict[Connection, tuple[int, int, int, int]]


def lines_of(form: type[Form], records: Sequence[Connection]) -> list[bytes]:
    logfmt = Logfmt(LogfmtOptions(redact=False))
    text = logfmt.lines(records).encode() if form is FORMS[0] else Encoder().lines(records)
    return text.split(b"\n")[:-1]


def plain(connection: Connection) -> Connection:
    return msgspec.structs.replace(connection, ts=0, src_port=None, count=1)


def summed(several: Iterable[Repeats]) -> Sums:
    found: Sums = {}
    for each in several:
        key = plain(each.connection)
        records, count, first, last = found.get(key, (0, 0, each.first_ns, each.last_ns))
        times = [time for time in (first, last, each.first_ns, each.last_ns) if time]
        found[key] = (
            records + each.records,
            count + each.count,
            min(times, default=0),
            max(times, default=0),
        )
    return found


def gathered(form: type[Form], lines: Sequence[bytes]) -> tuple[list[Repeats], int]:
    made = Repeating(form())
    damaged = made.add(lines)
    return [*chain(*made.take())], damaged


def one_by_one(form: type[Form], lines: Sequence[bytes]) -> tuple[list[Repeats], int]:
    reader, found, damaged = form(), [], 0
    for line in lines:
        try:
            found.append(Repeats.of(reader.connection(line)))
        except ValueError:
            damaged += bool(line.strip())
    return found, damaged


@forms
def test_few_of_many(form: type[Form]) -> None:
    """In any order, over seconds, and IPv6 and datagrams among them."""
    chosen = random.Random(1)
    records = [
        Connection(
            START_NS + chosen.randrange(5_000_000_000),
            "ebpf",
            protocol,
            4,
            f"192.0.2.{chosen.randrange(3)}",
            443,
            "10.0.0.1",
            chosen.randrange(1, 65536),
            count=chosen.choice((1, 1, 12)) if protocol == "udp" else 1,
            process=CURL,
            attribution="kernel",
        )
        for protocol in ("tcp", "udp") * 200
    ]
    found, damaged = gathered(form, lines_of(form, records))
    assert len(found) == 6
    assert not damaged
    assert summed(found) == summed(map(Repeats.of, records))


@forms
@given(several=st.lists(connections, max_size=2), text=st.sampled_from(POSING), again=st.integers(1, 3))
@example(several=[], text=POSING[0], again=2)
def test_any(form: type[Form], several: list[Connection], text: str, again: int) -> None:
    """Names and arguments that pose as numbers count for nothing."""
    posing = [
        Connection(
            START_NS, "ebpf", "udp", 4, "192.0.2.1", 53, port_ip, port, count, process=process, thread=text
        )
        for port_ip, port, count in ((None, None, 1), ("10.0.0.1", 4000, 1), ("10.0.0.1", 4001, 9))
        for process in (None, Process(pid=1, name=text, cmdline=text), Process(pid=1, name="a", exe=text))
    ]
    lines = [line for line in lines_of(form, [*several, *posing]) for _ in range(again)]
    found, damaged = gathered(form, lines)
    expected, expected_damaged = one_by_one(form, lines)
    assert summed(found) == summed(expected)
    assert damaged == expected_damaged


@pytest.mark.parametrize(
    "more",
    [
        b'ancestors=" src_port=1 count=5 "',
        b'x="a',
        b"src_port=1",
        b"count=1",
        b"hook=other",
        b"",
    ],
)
def test_edited_lines(more: bytes) -> None:
    """Further keys in a line, wherever they stand."""
    words = LINE.split(b" ")
    lines = [
        b" ".join([*words[:at], more, *words[at:]]).replace(b"=60166", b"=%d" % port)
        for port in (60166, 1, 99999, 0)
        for at in range(len(words) + 1)
    ]
    found, damaged = gathered(FORMS[0], [*lines, *lines])
    expected, expected_damaged = one_by_one(FORMS[0], [*lines, *lines])
    assert summed(found) == summed(expected)
    assert damaged == expected_damaged


@pytest.mark.parametrize(
    ("form", "more"),
    [(FORMS[0], b" dest_port=7"), (FORMS[1], b',"dest_port":7'), (FORMS[1], b',"dest_ip":"192.0.2.9"')],
)
def test_target_in_another_place(form: type[Form], more: bytes) -> None:
    """A key of it behind the others is no part of what comes with every target."""
    (line,) = lines_of(form, [msgspec.structs.replace(LogfmtReader().connection(LINE), process=None)])
    key = b" src_ip=" if form is FORMS[0] else b',"src_ip":'
    port = b" dest_port=443" if form is FORMS[0] else b',"dest_port":443'
    lines = [line, line.replace(port, b"").replace(key, more + key), line.replace(key, more + key)]
    expected, expected_damaged = one_by_one(form, lines)
    found, damaged = gathered(form, lines)
    assert summed(found) == summed(expected)
    assert damaged == expected_damaged
    first, second = Repeating(form()), Repeating(form())
    second.add(lines)
    for some in second.give():
        first.merge(some)
    assert summed(chain(*first.take())) == summed(expected)


@forms
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"60166", b"060166"),
        (b"60166", b"70166"),
        (b"60166", b"x"),
        (b"20.123456789", b"20"),
        (b"20.123456789", b"20.12345678x"),
        (b"2023-11", b"2023-13"),
        (b"2023-11", b"1969-11"),
        (b"192.0.2.1", b"2001:db8::1"),
    ],
)
def test_wrong_numbers_after_a_right_one(form: type[Form], old: bytes, new: bytes) -> None:
    """They are as damaged as if they came first."""
    record = LogfmtReader().connection(LINE)
    (line,) = lines_of(form, [record])
    lines = [line, line.replace(old, new), line]
    found, damaged = gathered(form, lines)
    expected, expected_damaged = one_by_one(form, lines)
    assert summed(found) == summed(expected)
    assert damaged == expected_damaged


@forms
def test_taken_when_full(form: type[Form], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and nothing is lost by that."""
    monkeypatch.setattr(repeats, "_MOST", 10)
    records = [
        Connection(START_NS + at, "ebpf", "tcp", 4, f"192.0.2.{at % 50}", 443, "10.0.0.1", at + 1)
        for at in range(500)
    ]
    made = Repeating(form())
    found: list[Repeats] = []
    for line in lines_of(form, records):
        made.add([line])
        if made.is_full:
            found += chain(*made.take())
    found += chain(*made.take())
    assert summed(found) == summed(map(Repeats.of, records))
    assert len(found) == 500


@forms
def test_merged(form: type[Form]) -> None:
    """What two processes gathered is what one would have, in the same order."""
    records = [
        Connection(
            START_NS + at,
            "ebpf",
            "udp",
            4,
            f"192.0.2.{at % 7}",
            53,
            "10.0.0.1",
            at + 1,
            1 + at % 3,
            process=Process(pid=at % 11, name="a" if at % 5 else POSING[0]),
        )
        for at in range(200)
    ]
    lines = lines_of(form, records)
    whole, first, second = (Repeating(form()) for _ in range(3))
    whole.add(lines)
    first.add(lines[:20])
    second.add(lines[20:])
    for some in second.give():
        first.merge(some)
    expected = [(plain(each.connection), each.count, each.first_ns) for each in chain(*whole.take())]
    assert [(plain(each.connection), each.count, each.first_ns) for each in chain(*first.take())] == expected
    assert not any(some.rows for some in second.give())

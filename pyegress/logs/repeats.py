# SPDX-License-Identifier: MIT
"""Lines that differ in time, source port and count alone, read once and counted.

A line is cut into its target, which comes again and again, these numbers, and the rest, which is mostly a process; both
are looked up as they stand. What a rest means is read from its first line, and only where that line with other numbers
means the same but for these: text of a process that poses as such a number would be a part of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import msgspec

from pyegress.logs.timestamp import parsed
from pyegress.record import Connection, Repeats

_MOST = 200_000
"""Pairs that are kept at once."""
_MOST_BYTES = 32 << 20
"""Of their text."""
_SECOND_NS = 1_000_000_000
_TIME_BYTES = len("2023-11-14T22:13:20.")
_FRACTION_BYTES = 9
_MOST_DIGITS = 18
_LAST_PORT, _PORT_DIGITS = 65535, 5
_ANY_TIME, _ANY_NS = b"2001-09-09T01:46:40.000000000", 10**18
_SOME = 2000
_T = TypeVar("_T")
_ZERO = ord("0")


class Shape(msgspec.Struct, frozen=True):
    """How a format writes lines."""

    before_time: bytes
    behind_time: bytes
    """Up to the next key."""
    target: re.Pattern[bytes]
    """Pairs that are whole by themselves, whatever stands behind them."""
    target_end: bytes
    target_bytes: int
    """The target ends so far behind the beginning of that; or before the numbers where there is none."""
    other_target: bytes
    """OTHER_TARGET, with all its keys."""
    port: bytes
    count: bytes
    end: bytes
    """What follows a number that isn't the line's last."""


class Target(NamedTuple):
    """Where a line's connection went."""

    hook: str
    protocol: str
    ip_version: int
    dest_ip: str
    dest_port: int | None


OTHER_TARGET = Target("other", "tcp", 4, "203.0.113.250", 61999)


class Form(Protocol):
    """A format of logs."""

    shape: ClassVar[Shape]

    def connection(self, line: bytes) -> Connection:
        """What a line was written for; ValueError where it is no whole record."""


class _Tail(msgspec.Struct, gc=False):
    mark: bytes
    """Short, and no other's: what is looked up by a head and this fits a CPU's cache sooner than with the text."""
    text: bytes
    connection: Connection
    """The first."""


class _Counted(msgspec.Struct, gc=False):
    tail: _Tail
    first_ns: int
    last_ns: int
    records: int
    extra: int
    """What they count for beyond one each."""


class _Head(msgspec.Struct, gc=False):
    target: Target
    pairs: list[_Counted]
    """By first sight."""


Row = tuple[bytes, int, int, int, int, int]
"""A pair for another process: head, which of the tails that were given before, first and last ns, records, extra."""


class Gathered(NamedTuple):
    """Some of what one process gathered, for the one that puts all together."""

    tails: list[bytes]
    """Those of this and the following ones until there are others."""
    rows: list[Row]
    alone: list[Connection]


class Repeating:
    """Gathers what lines stand for until it is taken away; for one thread."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._shape = form.shape
        self._heads: dict[bytes, _Head] = {}
        self._tails: dict[bytes, _Tail] = {}
        self._pairs: dict[bytes, _Counted] = {}
        """By the head with the tail's mark behind it: one look-up in a big table costs less than two."""
        self._text_bytes = 0
        self._alone: list[Connection] = []
        self._second, self._second_ns = b"", 0
        self._merged: list[bytes] = []

    @property
    def is_full(self) -> bool:
        """Whether it should be taken before more is added."""
        kept = len(self._pairs) + len(self._alone)
        return kept >= _MOST or self._text_bytes >= _MOST_BYTES

    def take(self) -> Iterator[list[Repeats]]:
        """All that was gathered, by first sight as far as it repeats, some at a time; begins anew."""
        heads, alone = self._heads, self._alone
        self._clear()
        return _batched(chain(_repeats(heads), map(Repeats.of, alone)))

    def give(self) -> Iterator[Gathered]:
        """The same, to be merged by another process."""
        heads, alone, tails = self._heads, self._alone, list(self._tails)
        self._clear()
        yield Gathered(tails, [], [])
        for rows in _batched(_rows(heads)):
            yield Gathered([], rows, [])
        for some in _batched(iter(alone)):
            yield Gathered([], [], some)

    def merge(self, other: Gathered) -> None:
        """Count in what lines behind those that were added stand for."""
        self._merged = other.tails or self._merged
        self._alone += other.alone
        tails, pairs = self._merged, self._pairs
        for head, number, first_ns, last_ns, records, extra in other.rows:
            text = tails[number]
            tail = self._tails.get(text)
            each = None if tail is None else pairs.get(head + tail.mark)
            if each is None:
                if tail is None or head not in self._heads:
                    # It was checked where it was gathered.
                    self._know(head, text, self._form.connection(self._line(head, text, None, 1)))
                self._begin(head, text, first_ns, last_ns, records, extra)
                continue
            each.records += records
            each.extra += extra
            each.first_ns = min(first_ns, each.first_ns)
            each.last_ns = max(last_ns, each.last_ns)

    def _clear(self) -> None:
        self._heads, self._alone = {}, []
        self._tails.clear()
        self._pairs.clear()
        self._text_bytes = 0

    def add(self, lines: Iterable[bytes]) -> int:
        """Count lines in; how many were no record. Empty ones are none and don't count."""
        shape, tails, pairs = self._shape, self._tails, self._pairs
        behind_time, port_key, count_key, stop = shape.behind_time, shape.port, shape.count, shape.end
        fraction_at = len(shape.before_time) + _TIME_BYTES
        time_end = fraction_at + _FRACTION_BYTES
        begin = time_end + len(behind_time)
        target_end, target_bytes = shape.target_end, shape.target_bytes
        port_bytes, count_bytes = len(port_key), len(count_key)
        second, second_ns = self._second, self._second_ns
        damaged = 0
        for line in lines:
            if line[:fraction_at] != second:
                self._new_second(line[:fraction_at])
                second, second_ns = self._second, self._second_ns
            fraction = line[fraction_at:time_end]
            if not second_ns or line[time_end:begin] != behind_time or not fraction.isdigit():
                damaged += self._add_alone(line)
                continue
            ts = second_ns + int(fraction)

            port = b""
            at = behind = line.find(port_key, begin)
            if at >= 0:
                behind = line.find(stop, at + port_bytes)
                if behind < 0:
                    behind = len(line)
                port = line[at + port_bytes : behind]
                if (
                    not port.isdigit()
                    or port[0] == _ZERO
                    or len(port) > _PORT_DIGITS
                    or int(port) > _LAST_PORT
                ):
                    damaged += self._add_alone(line)
                    continue
            else:
                at = behind = line.find(count_key, begin)
                if at < 0:
                    at = behind = len(line)
            count = 1
            if line.startswith(count_key, behind):
                counted = behind + count_bytes
                behind = line.find(stop, counted)
                if behind < 0:
                    behind = len(line)
                count = _number(line[counted:behind])
                if not count:
                    damaged += self._add_alone(line)
                    continue

            head_end = line.find(target_end, begin, at)
            head_end = at if head_end < 0 else head_end + target_bytes
            # The newline keeps a value that was cut from being put together again.
            text = line[head_end:at] + b"\n" + line[behind:]
            tail = tails.get(text)
            each = None if tail is None else pairs.get(line[begin:head_end] + tail.mark)
            if each is None:
                head = line[begin:head_end]
                damaged += self._add_new(line, head, text, ts, int(port) if port else None, count)
                continue
            each.records += 1
            if count != 1:
                each.extra += count - 1
            if ts > each.last_ns:
                each.last_ns = ts
            elif ts < each.first_ns:
                each.first_ns = ts
        return damaged

    def _new_second(self, text: bytes) -> None:
        """What is no time is 0."""
        self._second, self._second_ns = text, 0
        begin = self._shape.before_time
        if text.startswith(begin) and text.endswith(b"."):
            try:
                self._second_ns = parsed(text[len(begin) : -1].decode() + "Z")
            except ValueError:
                return

    def _add_new(self, line: bytes, head: bytes, text: bytes, ts: int, port: int | None, count: int) -> bool:
        """Whether it was no record."""
        is_known = text in self._tails
        if not is_known or head not in self._heads:
            try:
                connection = self._form.connection(line)
            except ValueError:
                return bool(line.strip())
            is_whole = self._shape.target.fullmatch(head) is not None
            if not (is_whole and (is_known or self._is_apart(text, connection, ts, port, count))):
                self._alone.append(connection)
                return False
            self._know(head, text, connection)
        self._begin(head, text, ts, ts, 1, count - 1)
        return False

    def _know(self, head: bytes, text: bytes, connection: Connection) -> None:
        """From now on both mean what they mean here."""
        if head not in self._heads:
            self._heads[head] = _Head(_target_of(connection), [])
            self._text_bytes += len(head)
        if text not in self._tails:
            self._tails[text] = _Tail(b"\n%d" % len(self._tails), text, connection)
            self._text_bytes += len(text)

    def _begin(self, head: bytes, text: bytes, first_ns: int, last_ns: int, records: int, extra: int) -> None:
        """A pair of what is known."""
        tail = self._tails[text]
        each = self._pairs[head + tail.mark] = _Counted(tail, first_ns, last_ns, records, extra)
        self._heads[head].pairs.append(each)
        self._text_bytes += len(head)

    def _is_apart(self, tail: bytes, connection: Connection, ts: int, port: int | None, count: int) -> bool:
        """Whether the numbers are what they seem to be, and the rest means the same with others and any target."""
        if (connection.ts, connection.src_port, connection.count) != (ts, port, count):
            return False
        other_port = None if port is None else port ^ 1 or 2
        expected = msgspec.structs.replace(
            connection, ts=_ANY_NS, src_port=other_port, count=count + 1, **OTHER_TARGET._asdict()
        )
        other = self._line(self._shape.other_target, tail, other_port, count + 1)
        try:
            return self._form.connection(other) == expected
        except ValueError:
            return False

    def _line(self, head: bytes, tail: bytes, port: int | None, count: int) -> bytes:
        """A line with these numbers, at any time."""
        shape = self._shape
        numbers = b"" if port is None else shape.port + str(port).encode()
        numbers += shape.count + str(count).encode()
        begin = shape.before_time + _ANY_TIME + shape.behind_time
        return begin + head + tail.replace(b"\n", numbers, 1)

    def _add_alone(self, line: bytes) -> bool:
        """Whether it was no record."""
        try:
            self._alone.append(self._form.connection(line))
        except ValueError:
            return bool(line.strip())
        return False


def _number(text: bytes) -> int:
    """As a line of ours has it; 0 for all else."""
    return int(text) if text.isdigit() and text[0] != _ZERO and len(text) <= _MOST_DIGITS else 0


def _target_of(connection: Connection) -> Target:
    return Target(
        connection.hook,
        connection.protocol,
        connection.ip_version,
        connection.dest_ip,
        connection.dest_port,
    )


def _repeats(heads: dict[bytes, _Head]) -> Iterator[Repeats]:
    for head in heads.values():
        target = head.target
        for tail, first_ns, last_ns, records, extra in map(msgspec.structs.astuple, head.pairs):
            yield Repeats(_at(target, tail.connection), records, records + extra, first_ns, last_ns)
        # What is made of them needs the memory.
        head.pairs.clear()


def _at(target: Target, one: Connection) -> Connection:
    """By position, as this is done for each pair."""
    return Connection(
        one.ts,
        *target,
        one.src_ip,
        one.src_port,
        one.count,
        one.result,
        one.direction,
        one.netns,
        one.ifname,
        one.process,
        one.tid,
        one.thread,
        one.attribution,
        one.kernel_socket,
        one.socket_uid,
        one.dest_names,
        one.dest_name_sources,
        one.dest_name_ages,
        one.dest_names_missing,
        one.verdict,
    )


def _rows(heads: dict[bytes, _Head]) -> Iterator[Row]:
    for text, head in heads.items():
        for tail, first_ns, last_ns, records, extra in map(msgspec.structs.astuple, head.pairs):
            yield text, int(tail.mark), first_ns, last_ns, records, extra
        head.pairs.clear()


def _batched(items: Iterator[_T]) -> Iterator[list[_T]]:
    """Some at a time, as itertools has it from Python 3.12 on."""
    while some := list(islice(items, _SOME)):
        yield some

# SPDX-License-Identifier: MIT
"""Lines of the logfmt output -> connections.

The output writes its keys in one order. So a line falls into the time, the destination, the process, two numbers that
differ in every line, and names; all but the numbers comes again and again and is read once. A part that is
whole pairs by itself means the same in every line. Text of a process that poses as a key splits a pair, and then the
line is read as a whole.
"""

from __future__ import annotations

import re
from typing import ClassVar, NamedTuple

from pyegress.logs import upstream
from pyegress.logs.fields import (
    END,
    KNOWN,
    SOCKET,
    TARGET,
    VARYING,
    Pairs,
    process_of,
    target_of,
    values,
)
from pyegress.logs.kept import Kept
from pyegress.logs.repeats import Shape
from pyegress.logs.timestamp import parsed
from pyegress.logs.unescape import unquoted
from pyegress.record import ATTRIBUTED, Connection, Process

_PAIR = re.compile(r' ([a-z_0-9]+)=(?:([!#-<>-\[\]-~]+)|"([^"\\]*(?:\\.[^"\\]*)*)")')
_VARYING = re.compile(
    rb"(?: src_port=([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    rb"(?: count=([1-9][0-9]{0,17}))?(?= |\Z)"
)
_TIME_BYTES = len("ts=2023-11-14T22:13:20.123456789Z")
_VERSION_BYTES = len(" ip_version=4")
_OF_CONNECTION = {**VARYING, **SOCKET, **END}
_NEEDED = TARGET.keys() - {"dest_port"}
_NOT_OF_PARTY = TARGET.keys() | VARYING.keys() | END.keys()
_NOT_OF_END = KNOWN - END.keys()
_SECOND_NS = 1_000_000_000
_USUAL_ENDS = tuple(f" attribution={how}".encode() for how in sorted(ATTRIBUTED))
_MIB = 1 << 20


class _Target(NamedTuple):
    hook: str
    protocol: str
    ip_version: int
    dest_ip: str
    dest_port: int | None


class _Party(NamedTuple):
    """The socket and its process."""

    src_ip: str | None
    result: str | None
    direction: str
    netns: int | None
    ifname: str | None
    process: Process | None
    thread: str | None
    attribution: str | None
    kernel_socket: bool
    socket_uid: int | None


class _End(NamedTuple):
    dest_names: tuple[str, ...]
    dest_name_sources: tuple[str, ...]
    dest_name_ages: tuple[int, ...]
    dest_names_missing: str | None
    verdict: str | None


class LogfmtReader:
    """For one thread. What comes again is the same object, as long as the memory for it lasts."""

    shape: ClassVar[Shape] = Shape(
        before_time=b"ts=",
        behind_time=b"Z ",
        target=re.compile(
            rb'hook=[^ "=\\]+ protocol=[^ "=\\]+ dest_ip=[^ "=\\]+(?: dest_port=[0-9]+)? ip_version=[46]'
        ),
        target_end=b" ip_version=",
        target_bytes=_VERSION_BYTES,
        other_target=b"hook=other protocol=tcp dest_ip=203.0.113.250 dest_port=61999 ip_version=4",
        port=b" src_port=",
        count=b" count=",
        end=b" ",
    )

    def __init__(self) -> None:
        self._second, self._second_ns = b"", 0
        self._targets: Kept[bytes, _Target] = Kept(56 * _MIB, 400)
        self._parties: Kept[tuple[bytes, bytes], _Party] = Kept(24 * _MIB, 1000)
        self._ends: Kept[bytes, _End] = Kept(4 * _MIB, 400)
        self._processes: Kept[Process, Process] = Kept(24 * _MIB, 1500)

    def connection(self, line: bytes) -> Connection:
        """What a line, without its end, was written for; ValueError where it is no whole record."""
        ts = at = 0
        if line.startswith(b"ts="):
            at = _TIME_BYTES
            if line[at - 1 : at + 1] != b"Z ":
                return self._whole(line)
            fraction = line[at - 10 : at - 1]
            if line[: at - 10] != self._second or not fraction.isdigit():
                self._new_second(line[:at])
            ts = self._second_ns + int(fraction)
        elif not line.startswith(b"hook="):
            return self._whole(line)
        version = line.find(b" ip_version=", at) + _VERSION_BYTES
        end_at = _end_at(line, version)
        varying = line.find(b" src_port=", version, end_at)
        if varying < 0:
            varying = line.find(b" count=", version, end_at)
            if varying < 0:
                varying = end_at
        match = _VARYING.match(line, varying)
        if match is None:
            return self._whole(line)
        src_port, count = match.groups()

        text = line[at:version]
        target = self._targets.get(text) or self._new_target(text)
        # Two texts, so that a value that was split isn't put together again.
        around = line[version:varying], line[match.end() : end_at]
        party = self._parties.get(around) or self._new_party(around)
        text = line[end_at:]
        end = self._ends.get(text) or self._new_end(text)
        if target is None or party is None or end is None:
            return self._whole(line)
        return Connection(
            ts,
            target[0],
            target[1],
            target[2],
            target[3],
            target[4],
            party[0],
            None if src_port is None else int(src_port),
            1 if count is None else int(count),
            party[1],
            party[2],
            party[3],
            party[4],
            party[5],
            None,
            party[6],
            party[7],
            party[8],
            party[9],
            *end,
        )

    def _new_target(self, text: bytes) -> _Target | None:
        pairs = _alone(text)
        if pairs is None or not pairs.keys() <= TARGET.keys() or not pairs.keys() >= _NEEDED:
            return None
        return self._targets.keep(text, _Target(**target_of(pairs)), len(text))

    def _new_second(self, text: bytes) -> None:
        ts = parsed(text.decode().removeprefix("ts="))
        self._second, self._second_ns = text[:-10], ts - ts % _SECOND_NS

    def _new_party(self, around: tuple[bytes, bytes]) -> _Party | None:
        pairs, more = _alone(around[0]), _alone(around[1])
        if pairs is None or more is None or pairs.keys() & more.keys():
            return None
        pairs |= more
        if pairs.keys() & _NOT_OF_PARTY:
            return None
        size = len(around[0]) + len(around[1])
        found = values(SOCKET, pairs)
        party = _Party(
            found.get("src_ip"),
            found.get("result"),
            found.get("direction", "out"),
            found.get("netns"),
            found.get("ifname"),
            self._process(pairs, size),
            found.get("thread"),
            found.get("attribution"),
            found.get("kernel_socket", False),
            found.get("socket_uid"),
        )
        return self._parties.keep(around, party, size)

    def _new_end(self, text: bytes) -> _End | None:
        pairs = _alone(text)
        if pairs is None or pairs.keys() & _NOT_OF_END:
            return None
        found = values(END, pairs)
        end = _End(
            found.get("dest_names", ()),
            found.get("dest_name_sources", ()),
            found.get("dest_name_ages", ()),
            found.get("dest_names_missing"),
            found.get("verdict"),
        )
        return self._ends.keep(text, end, len(text))

    def _process(self, pairs: Pairs, text_bytes: int) -> Process | None:
        process = process_of(pairs)
        if process is None:
            return None
        return self._processes.get(process) or self._processes.keep(process, process, text_bytes)

    def _whole(self, line: bytes) -> Connection:
        """A line whose keys are in another order, or whose text poses as keys; and one of upstream."""
        line = line.removesuffix(b"\r")
        pairs = upstream.pairs(line) if upstream.wrote(line) else _pairs(" " + line.decode())
        if next((key for key in pairs if key != "ts"), "") != "hook":
            # Such as `hts`, where a crash cut a line in its second key and the next run went on behind it.
            raise ValueError("does not begin as a line does")
        return Connection(
            **{"ts": 0, **values(_OF_CONNECTION, pairs), **target_of(pairs)},
            process=self._process(pairs, len(line)),
        )


def _end_at(line: bytes, version: int) -> int:
    """Where what may differ from destination to destination begins, at the end of the line."""
    # A twelfth of the time for a line, as nearly all end so.
    if line.endswith(_USUAL_ENDS):
        return len(line)
    last = max(line.rfind(b" attribution="), version)
    at = line.find(b" dest_names", last)
    if at < 0:
        at = line.find(b" verdict=", last)
    return at if at >= 0 else len(line)


def _alone(text: bytes) -> Pairs | None:
    """The pairs of a part; None where it is none by itself, or no text."""
    try:
        return _pairs(text.decode())
    except ValueError:
        return None


def _pairs(text: str) -> Pairs:
    """All pairs, each after a space; ValueError where that is not all, or a key comes twice."""
    pairs: Pairs = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError("no pair")
        key, bare, inside = match.groups()
        if key in pairs:
            raise ValueError("a key comes twice")
        pairs[key] = unquoted(inside) if bare is None else bare
        at = match.end()
    return pairs

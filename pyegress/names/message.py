# SPDX-License-Identifier: MIT
"""DNS messages -> what is asked and which addresses the answer leads to; whatever the bytes, with bounded work.

dnspython reads the names that are not plain. Its whole messages are not used: they take each record apart, of which
two kinds matter here, and a crafted one of 64 KiB would keep them busy for seconds.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import dns.exception
import dns.name
import dns.wire

MOST_READS = 8192
"""Of labels of one message: some milliseconds. An answer without tricks has fewer."""
MOST_RECORDS = 2048
"""Of one answer."""
MOST_ADDRESSES = 512
MOST_ALIASES = 16
"""CNAMEs in a row; resolvers give up earlier."""
MOST_POINTERS = 16
"""Of one name that is read here; servers use one."""
MOST_NAME = 253
"""Characters, of a plain one."""
MOST_TTL_S = 86_400
A, CNAME, AAAA, ANY = 1, 5, 28, 255
_IN = 1
_HEADER = struct.Struct("!HHHHHH")
_KIND = struct.Struct("!HH")
_FIXED = struct.Struct("!HHIH")
_POINTED = struct.Struct("!HHHIH")
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_MAPPED = b"\0" * 10 + b"\xff\xff"
_ROOT = "."
_MOST_LABEL, _POINTER, _PLACE = 63, 0xC0, 0x3FFF
_PLAIN = re.compile(rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class Question(NamedTuple):
    """What is asked."""

    id: int
    name: str
    """Lower case, without the last dot; bytes that no host name has, and commas, as `\\DDD`."""
    type: int


class Answer(NamedTuple):
    """What came back."""

    question: Question
    rcode: int
    """0: no error; 3: there is no such name."""
    is_truncated: bool
    """The server has more to say over TCP."""
    names: tuple[str, ...]
    """The name that was asked for, and each that it is an alias of, in that order."""
    addresses: tuple[tuple[bytes, int], ...]
    """16 bytes, IPv4 as ::ffff:a.b.c.d, and for how many seconds."""


class MalformedError(Exception):
    """Bytes that are no DNS message, or none that anybody here asks; the reason in words."""


def read(wire: bytes) -> Question | Answer:
    """What a message says; MalformedError for all that can't be used, and no other exception."""
    try:
        return _read(wire)
    except (dns.exception.DNSException, struct.error, ValueError, IndexError) as error:
        raise MalformedError("malformed") from error


class _Parser(dns.wire.Parser):
    """dnspython's, with bounded patience."""

    reads = 0

    def get_bytes(self, size: int) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise MalformedError("too much work")
        return super().get_bytes(size)


def _read(wire: bytes) -> Question | Answer:
    if len(wire) < _HEADER.size:
        raise MalformedError("malformed")
    number, flags, questions, answers, _, _ = _HEADER.unpack_from(wire)
    if flags & _OPCODE or questions != 1:
        raise MalformedError("not a query")
    names = _Names(wire)
    asked, at = names.at(_HEADER.size)
    kind, kind_class = _KIND.unpack_from(wire, at)
    if kind_class != _IN:
        raise MalformedError("not a query")
    question = Question(number, asked, kind)
    if not flags & _RESPONSE:
        return question
    rcode, is_truncated = flags & _RCODE, bool(flags & _TRUNCATED)
    if rcode or kind not in (A, AAAA, ANY):
        return Answer(question, rcode, is_truncated, (asked,), ())
    found = _follow(asked, *_records(names, wire, at + _KIND.size, answers, is_truncated))
    return Answer(question, rcode, is_truncated, *found)


_Addresses = list[tuple[str, bytes, int]]


class _Names:
    """Names of a message by where they stand: nearly all are a pointer to one that was read before.

    Plain ones are read here, in a fifth of the time; dnspython reads those that are not, and refuses what is none.
    """

    def __init__(self, wire: bytes) -> None:
        self.known: dict[int, str] = {}
        """What a pointer to that place stands for."""
        self._wire = wire
        self._parser = _Parser(wire)

    def at(self, start: int) -> tuple[str, int]:
        """The name that begins there, and where what follows it does."""
        plain = self._plain(start, MOST_POINTERS)
        if plain is not None:
            return plain
        self._parser.seek(start)
        name = text_of(dns.name.from_wire_parser(self._parser))
        if self._wire[start] >= _POINTER and name != _ROOT:
            self.known[(self._wire[start] << 8 | self._wire[start + 1]) & _PLACE] = name
        return name, self._parser.current

    def _plain(self, start: int, pointers: int) -> tuple[str, int] | None:
        """The same; None where it isn't plain."""
        wire, at = self._wire, start
        labels: list[bytes] = []
        while 0 < (size := wire[at]) <= _MOST_LABEL:
            labels.append(wire[at + 1 : at + 1 + size])
            at += 1 + size
        text = b".".join(labels)
        self._parser.reads += len(labels)
        if self._parser.reads > MOST_READS:
            raise MalformedError("too much work")
        if labels and (text.count(b".") >= len(labels) or not _PLAIN.fullmatch(text)):
            return None
        name = text.decode("ascii").lower()
        if size >= _POINTER:
            place = (size << 8 | wire[at + 1]) & _PLACE
            rest = self.known.get(place)
            if rest is None:
                found = self._plain(place, pointers - 1) if place < start and pointers else None
                if found is None:
                    return None
                rest = self.known[place] = found[0]
            name = f"{name}.{rest}" if name else rest
        elif size:
            return None
        if not 0 < len(name) <= MOST_NAME:
            return None
        return name, at + 1 + bool(size)


def _records(
    names: _Names, wire: bytes, at: int, count: int, is_truncated: bool
) -> tuple[dict[str, str], _Addresses]:
    """Aliases, and addresses by their owner; of a truncated message as many as are whole."""
    aliases: dict[str, str] = {}
    addresses: _Addresses = []
    known = names.known
    try:
        for _ in range(min(count, MOST_RECORDS)):
            owner = None
            if wire[at] >= _POINTER:
                pointer, kind, kind_class, ttl, size = _POINTED.unpack_from(wire, at)
                owner = known.get(pointer & _PLACE)
            if owner is not None:
                at += _POINTED.size + size
            else:
                owner, at = names.at(at)
                kind, kind_class, ttl, size = _FIXED.unpack_from(wire, at)
                at += _FIXED.size + size
            if at > len(wire):
                raise MalformedError("malformed")
            if kind_class != _IN:
                continue
            if kind == CNAME:
                aliases.setdefault(owner, names.at(at - size)[0])
            elif (kind, size) in ((A, 4), (AAAA, 16)) and len(addresses) < MOST_ADDRESSES:
                packed = wire[at - size : at]
                # The highest bit means 0 (RFC 2181, 8).
                ttl = min(ttl, MOST_TTL_S) if ttl < 1 << 31 else 0
                addresses.append((owner, packed if size == 16 else _MAPPED + packed, ttl))
    except (dns.exception.DNSException, struct.error, ValueError, IndexError, MalformedError):
        if not is_truncated:
            raise
    return aliases, addresses


def _follow(
    asked: str, aliases: dict[str, str], addresses: _Addresses
) -> tuple[tuple[str, ...], tuple[tuple[bytes, int], ...]]:
    """The names from the one that was asked on, and their addresses: others in an answer are nobody's to believe."""
    names = [asked]
    while len(names) <= MOST_ALIASES and (following := aliases.get(names[-1])) is not None:
        if following in names:
            break
        names.append(following)
    found = {address: ttl for owner, address, ttl in addresses if owner in names}
    return tuple(names), tuple(found.items())


def text_of(name: dns.name.Name) -> str:
    """A name as text: printable ASCII without spaces and commas, which part names in logs."""
    return name.to_text(omit_final_dot=True).lower().replace(",", "\\044")

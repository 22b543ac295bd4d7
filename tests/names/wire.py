# SPDX-License-Identifier: MIT
"""DNS messages as dnspython writes them, and segments as a tap tells them."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rrset

from pyegress.names.segment import TCP, UDP, Ends, Segment

CLIENT, SERVER = b"\0" * 10 + b"\xff\xff\xc6\x12\0\x09", b"\0" * 10 + b"\xff\xff\xc6\x12\0\x35"
ENDS = Ends(UDP, CLIENT, 40000, SERVER, 7)
STREAM = ENDS._replace(protocol=TCP)
SECOND_NS = 1_000_000_000


def question(name: str, kind: str = "A", number: int = 1) -> bytes:
    """A question."""
    return dns.message.make_query(name, kind, id=number).to_wire()


def answer(name: str, *records: str, kind: str = "A", number: int = 1, cut: bool = False) -> bytes:
    """An answer, each record as in a zone: `www.example. 60 A 192.0.2.1`."""
    found = dns.message.make_response(dns.message.make_query(name, kind, id=number))
    for text in records:
        owner, ttl, sort, *data = text.split()
        found.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", sort, " ".join(data)))
    if cut:
        found.flags |= dns.flags.TC
    return found.to_wire(max_size=65535)


def asks(wire: bytes, ends: Ends = ENDS, ts_ns: int = 0, tgid: int = 0) -> Segment:
    """A question as it leaves."""
    return Segment(ends, False, wire, ts_ns, tgid=tgid)


def tells(wire: bytes, ends: Ends = ENDS, ts_ns: int = 0) -> Segment:
    """An answer as it comes."""
    return Segment(ends, True, wire, ts_ns)

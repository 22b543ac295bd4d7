# SPDX-License-Identifier: MIT
"""DNS messages: what is asked, what is told, and nothing else whatever the bytes."""

from __future__ import annotations

import itertools
import struct

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyegress.names.message import MOST_ADDRESSES, Answer, MalformedError, Question, read, text_of
from tests.names.wire import answer, question

MAPPED = b"\0" * 10 + b"\xff\xff"
WHOLE = answer("www.example.", "www.example. 60 CNAME a.example.", "a.example. 20 A 192.0.2.1")


def told(wire: bytes) -> Answer:
    """An answer that can be read."""
    found = read(wire)
    assert isinstance(found, Answer)
    return found


def test_question() -> None:
    """Its number, type, and name in lower case."""
    assert read(question("WWW.Example.", "AAAA", 4711)) == Question(4711, "www.example", 28)


def test_chain_of_aliases() -> None:
    """Each alias is a name of each address, the one that was asked for first."""
    found = told(
        answer(
            "www.example.",
            "b.cdn. 5 A 192.0.2.2",
            "www.example. 60 CNAME a.cdn.",
            "a.cdn. 60 CNAME b.cdn.",
            "b.cdn. 20 A 192.0.2.1",
        )
    )
    assert found.names == ("www.example", "a.cdn", "b.cdn")
    assert dict(found.addresses) == {MAPPED + b"\xc0\0\2\1": 20, MAPPED + b"\xc0\0\2\2": 5}


def test_ipv6_and_thirty_addresses() -> None:
    """All addresses of an answer, of either version."""
    found = told(answer("six.example.", "six.example. 9 AAAA 2001:db8::1", kind="AAAA"))
    assert found.addresses == ((b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1", 9),)
    records = [f"many.example. 1 A 192.0.2.{number}" for number in range(30)]
    assert len(told(answer("many.example.", *records)).addresses) == 30


def test_addresses_of_other_names_are_not_believed() -> None:
    """A server may tell what it likes beside the answer."""
    found = told(answer("www.example.", "bank.example. 60 A 192.0.2.66", "www.example. 1 A 192.0.2.1"))
    assert found.addresses == ((MAPPED + b"\xc0\0\2\1", 1),)


def test_aliases_in_a_circle_end() -> None:
    """And lead to nothing."""
    found = told(answer("a.example.", "a.example. 1 CNAME b.example.", "b.example. 1 CNAME a.example."))
    assert (found.names, found.addresses) == (("a.example", "b.example"), ())


def test_negative_and_truncated_answers() -> None:
    """No such name leads nowhere; of what is cut off, what is whole counts."""
    refused = bytearray(answer("no.example."))
    refused[3] |= 3
    assert told(bytes(refused)).rcode == 3
    cut = told(
        answer("www.example.", "www.example. 1 A 192.0.2.1", "www.example. 1 A 192.0.2.2", cut=True)[:-3]
    )
    assert cut.is_truncated
    assert cut.addresses == ((MAPPED + b"\xc0\0\2\1", 1),)


def test_hostile_names_are_plain_text() -> None:
    """Any byte may be in a label; dots, commas, spaces and what no terminal should see come as numbers."""
    wire = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x0b.,\x1b[31m\n\xff \\" + b"\7example\0\0\1\0\1"
    found = read(wire)
    assert isinstance(found, Question)
    assert found.name == r"\.\044\027[31m\010\255\032\\.example"


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 11, id="short"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", id="pointer to itself"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\1a\xc0\x0c\0\1\0\1", id="loop"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\x3fa", id="label beyond the end"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\1a" * 200 + b"\0\0\1\0\1", id="long name"),
        pytest.param(b"\0\1\1\0\0\1\0\0\0\0\0\0\x80\0\0\1\0\1", id="label type"),
        pytest.param(WHOLE[:-1], id="cut"),
        pytest.param(WHOLE[:-6] + b"\xff\xff" + WHOLE[-4:], id="length that lies"),
        pytest.param(WHOLE[:4] + b"\0\0" + WHOLE[6:], id="no question"),
        pytest.param(b"\0\1\x28\0" + WHOLE[4:], id="dynamic update"),
    ],
)
def test_malformed(wire: bytes) -> None:
    """Is said to be so."""
    with pytest.raises(MalformedError, match=r"^(malformed|not a query)$"):
        read(wire)


def test_much_work_is_refused() -> None:
    """Names that each take a long way through the message are not followed to the end."""
    wire = struct.pack("!HHHHHH", 1, 0x8180, 1, 5000, 0, 0) + b"\1a" * 120 + b"\0" + b"\0\1\0\1"
    for number in range(5000):
        pointers = 0xC000 | 12 + 2 * (number % 90)
        wire += struct.pack("!BBHHHIHH", 1, 97, pointers, 5, 1, 1, 2, pointers)
    with pytest.raises(MalformedError, match=r"^too much work$"):
        read(wire[:65535])


LABELS = st.lists(
    st.one_of(st.from_regex(rb"[A-Za-z0-9_-]{1,20}", fullmatch=True), st.binary(min_size=1, max_size=63)),
    max_size=4,
)


@given(LABELS, st.lists(LABELS, max_size=3))
def test_names_are_those_that_dnspython_reads(asked: list[bytes], aliases: list[list[bytes]]) -> None:
    """Whatever their bytes, and however they share their ends."""
    # As they are read, so that those that differ in case alone are one.
    wanted = [
        dns.name.Name([*labels, b""]).canonicalize() for labels in (asked, *(a + asked for a in aliases))
    ]
    assume(len(set(wanted)) == len(wanted))
    message = dns.message.make_response(dns.message.make_query(wanted[0], "A"))
    for owner, target in itertools.pairwise(wanted):
        message.answer.append(dns.rrset.from_text(owner, 1, "IN", "CNAME", target.to_text()))
    message.answer.append(dns.rrset.from_text(wanted[-1], 1, "IN", "A", "192.0.2.1", "192.0.2.2"))
    found = told(message.to_wire())
    assert found.names == tuple(map(text_of, wanted))
    assert len(found.addresses) == 2


def test_flood_of_records_is_bounded() -> None:
    """An answer of 64 KiB gives so many addresses at most."""
    wire = struct.pack("!HHHHHH", 1, 0x8180, 1, 4000, 0, 0) + b"\1a\0\0\1\0\1"
    for number in range(4000):
        wire += struct.pack("!HHHIHI", 0xC00C, 1, 1, 1 << 31, 4, number)
    found = told(wire)
    assert len(found.addresses) == MOST_ADDRESSES
    assert {ttl for _, ttl in found.addresses} == {0}


@given(st.binary(max_size=300))
def test_any_bytes(wire: bytes) -> None:
    """Are read or refused."""
    _survives(wire)


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(0, 80)
)
def test_any_damage(changes: list[tuple[int, int]], kept: int) -> None:
    """A message with other bytes in it, or without its end, is read or refused."""
    damaged = bytearray(WHOLE)
    for at, value in changes:
        damaged[at] = value
    _survives(bytes(damaged))
    _survives(bytes(damaged[:kept]))


def _survives(wire: bytes) -> None:
    try:
        found = read(wire)
    except MalformedError:
        return
    names = found.names if isinstance(found, Answer) else (found.name,)
    for name in names:
        assert name.isascii()
        assert name.isprintable()
        assert "," not in name
        assert " " not in name

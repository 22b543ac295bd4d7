# SPDX-License-Identifier: MIT
"""Observed DNS: questions and answers that pass -> names by address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.memory import Memory
from pyegress.names.observed import ObservedDns
from pyegress.names.segment import SYN, Segment
from tests.names.wire import ENDS, SECOND_NS, STREAM, answer, asks, question, tells

ADDRESS = "192.0.2.1"
ANSWER = answer("www.example.", "www.example. 60 CNAME a.cdn.", "a.cdn. 20 A 192.0.2.1")


def learned(*segments: Segment) -> tuple[list[str], ObservedDns]:
    """Names of the address, and who learned them."""
    memory = Memory()
    dns = ObservedDns(memory)
    dns.take(segments)
    return [named.name for named in memory.names(ADDRESS, SECOND_NS)], dns


def test_answer_to_a_question() -> None:
    """The name that was asked for and its aliases are names of the address; case is nobody's concern."""
    names, dns = learned(asks(question("WWW.example.")), tells(ANSWER))
    assert names == ["www.example", "a.cdn"]
    assert (dns.answers, dict(dns.unused)) == (1, {})


def test_over_tcp() -> None:
    """As over UDP."""
    segments = []
    for wire, is_answer in ((question("www.example."), False), (ANSWER, True)):
        text = len(wire).to_bytes(2, "big") + wire
        segments += [
            Segment(STREAM, is_answer, b"", 0, seq=9, flags=SYN),
            Segment(STREAM, is_answer, text[:7], 0, seq=10),
            Segment(STREAM, is_answer, text[7:], 0, seq=17),
        ]
    assert learned(*segments)[0] == ["www.example", "a.cdn"]


@pytest.mark.parametrize(
    ("wire", "ends"),
    [
        pytest.param(answer("www.example.", "www.example. 60 A 192.0.2.1", number=2), ENDS, id="number"),
        pytest.param(ANSWER, ENDS._replace(client_port=9), id="port"),
        pytest.param(ANSWER, ENDS._replace(server=ENDS.client), id="server"),
        pytest.param(answer("bank.example.", "bank.example. 60 A 192.0.2.1"), ENDS, id="name"),
    ],
)
def test_forged_answers_are_not_used(wire: bytes, ends: object) -> None:
    """They are counted, and the true one counts still."""
    names, dns = learned(asks(question("www.example.")), tells(wire)._replace(ends=ends))  # type: ignore[arg-type]
    assert names == []
    assert dns.unused == {"to no question that was seen": 1}
    dns.take([tells(ANSWER)])
    assert dns.answers == 1


def test_servers_that_are_not_believed() -> None:
    """Are counted; their question is answered."""
    for servers, answers in (((ENDS.server,), 1), ((ENDS.client,), 0)):
        dns = ObservedDns(Memory(), servers)
        dns.take([asks(question("www.example.")), tells(ANSWER)])
        assert (dns.answers, dns.unused["of servers that are not configured"]) == (answers, 1 - answers)


def test_what_cannot_be_read() -> None:
    """Is counted by why; an address that means none is no destination."""
    cut = tells(ANSWER)._replace(is_cut=True)
    names, dns = learned(tells(b"x"), cut, asks(b"y"), tells(question("www.example.")), asks(ANSWER))
    assert (names, dict(dns.unused)) == ([], {"malformed": 2, "too long for a datagram": 1})
    blocked = answer("ad.example.", "ad.example. 1 A 0.0.0.0")
    _, dns = learned(asks(question("ad.example.")), tells(blocked))
    assert dns.answers == 1


_PAYLOADS = st.one_of(
    st.sampled_from((question("www.example."), ANSWER, ANSWER[:-3], b"")),
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda tail: ANSWER[:12] + tail),
)
_SEGMENTS = st.builds(
    Segment,
    st.sampled_from((ENDS, STREAM, ENDS._replace(client_port=1))),
    st.booleans(),
    _PAYLOADS,
    st.integers(0, 10 * SECOND_NS),
    st.booleans(),
    st.integers(0, 60),
    st.sampled_from((0, 0, SYN)),
    st.integers(0, 3),
)


@given(st.lists(_SEGMENTS, max_size=40))
def test_any_traffic(segments: list[Segment]) -> None:
    """Nothing is raised, and only the address that the true answer tells is ever named."""
    memory = Memory()
    dns = ObservedDns(memory)
    dns.take(segments)
    assert len(memory) in (0, 2)
    assert len(dns.asked) <= len(segments)

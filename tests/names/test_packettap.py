# SPDX-License-Identifier: MIT
"""The packet socket: DNS of its network namespace, each message once, and nothing else."""

from __future__ import annotations

import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.memory import Memory
from pyegress.names.observed import ObservedDns
from pyegress.names.packettap import PacketTap, segment_of
from pyegress.names.segment import UDP
from tests.names.resolving import MANY, STUB, asked, needs_resolver, resolving
from tests.names.wire import answer, question
from tests.netns import add_link, own_netns, run

WIRE = question("www.example.")
PACKET = (
    struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + len(WIRE), 1, 0, 64, UDP, 0, b"\xc6\x12\0\x09", b"\xc6\x12\0\x35"
    )
    + struct.pack("!HHHH", 40000, 53, 8 + len(WIRE), 0)
    + WIRE
)


@needs_resolver
def test_answers_of_a_resolver() -> None:
    """Over UDP, over TCP after what was cut off, over IPv6's records, and through a stub."""
    memory = Memory()
    dns = ObservedDns(memory)
    with resolving():
        tap = PacketTap()
        try:
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                other.sendto(b"x" * 100, ("198.18.0.1", 54))
            assert asked("www.example.", server=STUB) == {"198.18.2.1"}
            assert len(asked("many.example.")) == MANY
            dns.take(tap.read())
        finally:
            tap.close()
    assert [named.name for named in memory.names("198.18.2.1", 0)] == [
        *("www.example", "alias.example", "edge.cdn.example")
    ]
    assert [named.name for named in memory.names("198.18.3.60", 0)] == ["many.example"]
    assert (dict(dns.unused), dict(dns.streams.given_up), tap.lost) == ({}, {}, 0)
    # Two of the stub's, one of them its own; one that was cut off, and again.
    assert dns.answers == 4


@needs_resolver
@pytest.mark.parametrize(("same_link", "used"), [(False, 1), (True, 0)])
def test_an_answer_by_another_link(same_link: bool, used: int) -> None:
    """From who knows the question is believed only where the link doesn't matter."""
    dns = ObservedDns(Memory())
    server = "198.18.0.53"
    with own_netns():
        add_link()
        (device,) = json.loads(run("ip -j link show out0"))
        tap = PacketTap(same_link=same_link)
        try:
            with (
                socket.socket(type=socket.SOCK_DGRAM) as asker,
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as behind,
            ):
                asker.bind(("198.18.0.1", 0))
                asker.sendto(question("one.example."), (server, 53))
                told = answer("one.example.", "one.example. 60 A 198.18.9.9")
                ends = map(socket.inet_aton, (server, "198.18.0.1"))
                ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(told), 1, 0, 64, UDP, 0, *ends)
                udp = struct.pack("!HHHH", 53, asker.getsockname()[1], 8 + len(told), 0)
                hardware = bytes.fromhex(device["address"].replace(":", ""))
                behind.bind(("out1", 0))
                behind.send(hardware + bytes(6) + b"\x08\0" + ip + udp + told)
                dns.take(tap.read())
        finally:
            tap.close()
    assert (dns.answers, dns.unused["to no question that was seen"]) == (used, 1 - used)


def test_packet() -> None:
    """Who asks whom, and what; a packet whose end is missing is said to be cut."""
    segment = segment_of(PACKET, 5)
    assert segment is not None
    assert segment.ends.client.endswith(b"\xc6\x12\0\x09")
    assert (segment.ends.client_port, segment.is_answer) == (40000, False)
    assert (segment.payload, segment.is_cut, segment.ts_ns) == (WIRE, False, 5)
    padded, cut = segment_of(PACKET + b"\0" * 9, 0), segment_of(PACKET[:-1], 0)
    assert padded is not None
    assert cut is not None
    assert (padded.payload, cut.payload, cut.is_cut) == (WIRE, WIRE[:-1], True)
    assert segment_of(PACKET[:6] + b"\0\1" + PACKET[8:], 0) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=6), st.integers(0, len(PACKET)))
def test_any_packet(changes: list[tuple[int, int]], kept: int) -> None:
    """Is read or left, whatever its headers say."""
    damaged = bytearray(PACKET)
    for at, value in changes:
        damaged[at] = value
    segment = segment_of(bytes(damaged[:kept]), 0)
    assert segment is None or len(segment.payload) <= kept

# SPDX-License-Identifier: MIT
"""The packet decoder: every link layer and header that leads to a flow, and bytes that lead nowhere."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress._native import ffi, lib
from pyegress.decode import packet as module
from pyegress.decode.packet import ACK, HAS_PORTS, HAS_TIME, RAW, SYN, Packet, PacketDecoder, Unreadable
from tests.decode.frames import TCP, UDP, ethernet, ipv4, ipv6, packed, tcp, udp

SLL_SENT = struct.pack(">HHH8sH", 4, 1, 6, bytes(8), 0x0800)
SLL2_SENT = struct.pack(">HHIHBB8s", 0x0800, 0, 2, 1, 4, 6, bytes(8))
PPPOE = struct.pack(">BBHH", 0x11, 0, 1, 0)
LINK_TYPES = (0, 1, 9, 12, 14, 101, 108, 113, 228, 229, 239, 276)
TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)

decoder = PacketDecoder()


def decoded(data: bytes, link_type: int = RAW) -> Packet:
    """The packet, which must be one."""
    packet = decoder.decode(data, link_type)
    assert isinstance(packet, Packet), packet
    return packet


def nflog(packet: bytes, order: str = "<", family: int = 2, hook: int = 3) -> bytes:
    """What `tcpdump -i nflog` writes: attributes in the byte order of the machine."""
    made = struct.pack(">BBH", family, 0, 5)
    for kind, value in ((1, struct.pack(">HBB", 0x0800, hook, 0)), (10, b"prefix\0"), (9, packet)):
        made += struct.pack(order + "HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return made


def extension(following: int, body: bytes = bytes(6), length: int = 0) -> bytes:
    """An extension header of IPv6."""
    return bytes((following, length)) + body


def test_every_field() -> None:
    """Each field comes from its own place."""
    packet = decoded(ipv4(tcp(sport=40000, dport=443, flags=SYN, sequence=0x01020304)))
    assert packet == Packet(
        flow=packed("192.168.1.10") + packed("198.51.100.7") + struct.pack("=HHBBH", 40000, 443, 6, 4, 0),
        ip_version=4,
        protocol=6,
        src=packed("192.168.1.10"),
        dst=packed("198.51.100.7"),
        sport=40000,
        dport=443,
        tcp_flags=SYN,
        tcp_seq=0x01020304,
        sent=None,
    )


def test_every_field_of_ipv6() -> None:
    """The same with the other version and another protocol."""
    packet = decoded(ipv6(udp(sport=1, dport=65535), UDP))
    assert packet == Packet(
        flow=packed("2001:db8::10") + packed("2001:db8:1::7") + struct.pack("=HHBBH", 1, 65535, 17, 6, 0),
        ip_version=6,
        protocol=17,
        src=packed("2001:db8::10"),
        dst=packed("2001:db8:1::7"),
        sport=1,
        dport=65535,
        tcp_flags=None,
        tcp_seq=0,
        sent=None,
    )


@pytest.mark.parametrize("name", ["HAS_PORTS", "HAS_TCP_FLAGS", "HAS_TIME", "SENT", "RECEIVED"])
def test_flags_are_those_of_c(name: str) -> None:
    """The bits that Python knows by number have that number in the header."""
    assert getattr(module, name) == getattr(lib, f"EGRESS_PACKET_{name}")


def test_every_reason_of_c_has_words() -> None:
    """No packet can be refused for a reason that Python doesn't know."""
    names = set(ffi.typeof("enum egress_unreadable").relements) - {"EGRESS_UNREADABLES"}
    assert names == {f"EGRESS_{reason.name}" for reason in Unreadable}


@pytest.mark.parametrize(
    ("link_type", "data"),
    [
        (0, struct.pack("<I", 2) + ipv4(tcp())),
        (0, struct.pack(">I", 2) + ipv4(tcp())),
        *((0, struct.pack("<I", family) + ipv6(tcp())) for family in (10, 24, 28, 30)),
        *((0, struct.pack(">I", family) + ipv6(tcp())) for family in (10, 24, 28, 30)),
        (1, ethernet(ipv4(tcp()))),
        (1, ethernet(ipv6(tcp()), 0x86DD)),
        *((1, ethernet(ipv4(tcp()), tags=(tag,))) for tag in TAGS),
        (1, ethernet(ipv4(tcp()), tags=TAGS * 2)),
        (1, ethernet(PPPOE + b"\0\x21" + ipv4(tcp()), 0x8864)),
        (1, ethernet(PPPOE + b"\0\x57" + ipv6(tcp()), 0x8864, tags=(0x8100,))),
        (9, b"\xff\x03\0\x21" + ipv4(tcp())),
        (9, b"\0\x57" + ipv6(tcp())),
        (9, b"\x21" + ipv4(tcp())),
        *((link_type, ipv4(tcp())) for link_type in (12, 14, 101, 228)),
        *((link_type, ipv6(tcp())) for link_type in (12, 14, 101, 229)),
        (108, struct.pack(">I", 2) + ipv4(tcp())),
        (108, struct.pack(">I", 24) + ipv6(tcp())),
        (113, SLL_SENT + ipv4(tcp())),
        (113, SLL_SENT[:-2] + b"\x81\0\0\x07\x08\0" + ipv4(tcp())),
        (239, nflog(ipv4(tcp()))),
        (239, nflog(ipv4(tcp()), ">")),
        (239, nflog(ipv6(tcp()), family=10)),
        (276, SLL2_SENT + ipv4(tcp())),
        (276, b"\x88\xa8" + SLL2_SENT[2:] + b"\0\x07\x08\0" + ipv4(tcp())),
    ],
)
def test_link_types(link_type: int, data: bytes) -> None:
    """The packet is found behind each link layer, whatever is before it."""
    packet = decoded(data, link_type)
    expected = (
        ("192.168.1.10", "198.51.100.7") if packet.ip_version == 4 else ("2001:db8::10", "2001:db8:1::7")
    )
    assert (packet.src, packet.dst) == tuple(map(packed, expected))
    assert (packet.sport, packet.dport, packet.tcp_flags) == (40000, 443, SYN)


@pytest.mark.parametrize(
    ("packet_type", "sent"), [(0, False), (1, False), (2, False), (3, None), (4, True), (5, None)]
)
def test_direction_of_cooked_packets(packet_type: int, sent: bool | None) -> None:
    """Linux says which packets it sent and which it got; those between others are neither."""
    sll = struct.pack(">H", packet_type) + SLL_SENT[2:]
    sll2 = SLL2_SENT[:10] + bytes((packet_type,)) + SLL2_SENT[11:]
    assert decoded(sll + ipv4(tcp()), 113).sent is sent
    assert decoded(sll2 + ipv4(tcp()), 276).sent is sent


@pytest.mark.parametrize(("hook", "sent"), [(0, False), (1, False), (2, None), (3, True), (4, None)])
def test_direction_of_logged_packets(hook: int, sent: bool | None) -> None:
    """INPUT and OUTPUT of netfilter are a direction; what leaves by POSTROUTING may be forwarded."""
    assert decoded(nflog(ipv4(tcp()), hook=hook), 239).sent is sent


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ethernet(bytes(46), 0x0806), Unreadable.NOT_IP),
        (ethernet(b"\xaa\xaa\x03" + bytes(40), 43), Unreadable.NOT_IP),
        (ethernet(b"\xc0\x21" + bytes(40), 0x8863), Unreadable.NOT_IP),
        (ethernet(PPPOE + b"\xc0\x21" + bytes(20), 0x8864), Unreadable.NOT_IP),
        (ethernet(ipv4(tcp()), tags=(*TAGS * 2, 0x8100)), Unreadable.MALFORMED),
        (ethernet(ipv6(tcp()), 0x0800), Unreadable.MALFORMED),
        (ethernet(ipv4(tcp()), 0x86DD), Unreadable.MALFORMED),
        (ethernet(b""), Unreadable.CUT),
        (ethernet(b"", 0x8100), Unreadable.CUT),
        (ethernet(b"\0", 0x8864), Unreadable.CUT),
    ],
)
def test_frames_without_a_packet(data: bytes, reason: Unreadable) -> None:
    """Other protocols, endless tags, and types that the packet contradicts."""
    assert decoder.decode(data, 1) is reason


@pytest.mark.parametrize(
    ("link_type", "data", "reason"),
    [
        (0, struct.pack("<I", 7) + ipv4(tcp()), Unreadable.NOT_IP),
        (0, struct.pack("<I", 2) + ipv6(tcp()), Unreadable.MALFORMED),
        (9, b"\xc0\x21" + bytes(40), Unreadable.NOT_IP),
        (101, b"\x50" + bytes(40), Unreadable.NOT_IP),
        (228, ipv6(tcp()), Unreadable.MALFORMED),
        (239, nflog(ipv4(tcp()), family=7), Unreadable.NOT_IP),
        (239, nflog(b"")[:-4] + struct.pack("<HH", 3, 9), Unreadable.MALFORMED),
        (239, nflog(ipv4(tcp()))[:20], Unreadable.CUT),
        (239, struct.pack(">BBH", 2, 0, 5) + struct.pack("<HH", 0xFFFF, 10) + bytes(40), Unreadable.CUT),
        (105, ipv4(tcp()), Unreadable.UNSUPPORTED_LINK),
        (-1, ipv4(tcp()), Unreadable.UNSUPPORTED_LINK),
        (1 << 30, b"", Unreadable.UNSUPPORTED_LINK),
    ],
)
def test_other_link_layers_without_a_packet(link_type: int, data: bytes, reason: Unreadable) -> None:
    """What they carry is not IP, or they contradict it."""
    assert decoder.decode(data, link_type) is reason


@pytest.mark.parametrize("link_type", LINK_TYPES)
def test_nothing(link_type: int) -> None:
    """No byte at all is a packet that was cut off, of every link type that is supported."""
    assert decoder.decode(b"", link_type) is Unreadable.CUT


@pytest.mark.parametrize(
    ("link_type", "data", "needed"),
    [
        (1, ethernet(ipv4(tcp()), tags=(0x88A8, 0x8100)), 14 + 8 + 20 + 14),
        (1, ethernet(ipv6(extension(TCP) + tcp(), 0), 0x86DD), 14 + 40 + 8 + 14),
        (113, SLL_SENT + ipv4(udp(), UDP), 16 + 20 + 4),
        (276, SLL2_SENT + ipv4(tcp(), options=bytes(40)), 20 + 60 + 14),
        (239, nflog(ipv4(tcp())), 4 + 8 + 12 + 4 + 20 + 14),
        (9, b"\xff\x03\0\x21" + ipv4(tcp()), 4 + 20 + 14),
        (0, struct.pack("<I", 30) + ipv6(tcp()), 4 + 40 + 14),
    ],
)
def test_every_prefix(link_type: int, data: bytes, needed: int) -> None:
    """A packet is read from where ports, and TCP's flags, are captured; before that it is cut off."""
    whole = decoder.decode(data, link_type)
    for length in range(len(data)):
        found = decoder.decode(data[:length], link_type)
        assert found == (whole if length >= needed else Unreadable.CUT), length


@pytest.mark.parametrize(
    "data",
    [
        ipv4(tcp()) + b"\xff" * 60,
        ipv4(tcp(), total=0),
        ipv4(tcp(), total=9000),
        ipv4(tcp(), options=b"\x94\x04\0\0"),
        ipv4(tcp(), options=bytes(40)),
        ipv4(tcp(), fragment=0x2000),
        ipv6(tcp()) + b"\xff" * 60,
        ipv6(tcp(), length=0),
        ipv6(tcp(), length=9000),
        ipv6(extension(TCP) + tcp(), 0),
        ipv6(extension(43) + extension(60) + extension(TCP, bytes(14), 1) + tcp(), 0),
        ipv6(extension(TCP, b"\0\x01" + bytes(4)) + tcp(), 44),
        ipv6(extension(TCP, bytes(22), 4) + tcp(), 51),
        *(ipv6(extension(TCP) + tcp(), protocol) for protocol in (135, 139, 140)),
        ipv6(extension(0) * 31 + extension(TCP) + tcp(), 0),
    ],
)
def test_headers_that_are_passed(data: bytes) -> None:
    """Options, extension headers, lengths that offload left, first fragments, and bytes behind the packet."""
    packet = decoded(data)
    assert (packet.protocol, packet.sport, packet.dport, packet.tcp_flags) == (TCP, 40000, 443, SYN)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x44" + ipv4(tcp())[1:], Unreadable.MALFORMED),
        (ipv4(tcp(), total=19), Unreadable.MALFORMED),
        (ipv4(tcp(), total=20 + 13), Unreadable.MALFORMED),
        (ipv4(udp(), UDP, total=20 + 3), Unreadable.MALFORMED),
        (ipv4(tcp()[:8], fragment=0x2000), Unreadable.MALFORMED),
        (ipv4(tcp(), fragment=1), Unreadable.LATER_FRAGMENT),
        (ipv4(tcp(), fragment=0x3FFF), Unreadable.LATER_FRAGMENT),
        (ipv4(b"", fragment=0x20), Unreadable.LATER_FRAGMENT),
        (ipv6(tcp(), length=13), Unreadable.MALFORMED),
        (ipv6(extension(TCP, b"\0\x08" + bytes(4)) + tcp(), 44), Unreadable.LATER_FRAGMENT),
        (
            ipv6(extension(0) + extension(44) + extension(TCP, b"\xff\xf9" + bytes(4)), 0),
            Unreadable.LATER_FRAGMENT,
        ),
        (ipv6(extension(TCP, length=255) + tcp(), 0), Unreadable.MALFORMED),
        (ipv6(extension(TCP, length=255) + tcp(), 0, length=0), Unreadable.CUT),
        (ipv6(extension(0) * 32 + extension(TCP) + tcp(), 0), Unreadable.MALFORMED),
    ],
)
def test_headers_that_lead_nowhere(data: bytes, reason: Unreadable) -> None:
    """What can't be is malformed, what goes on behind the captured bytes is cut off, and fragments are told."""
    assert decoder.decode(data) is reason


@pytest.mark.parametrize("protocol", [17, 33, 132, 136])
def test_protocols_with_ports(protocol: int) -> None:
    """UDP, DCCP, SCTP and UDP-Lite have them where TCP has."""
    packet = decoded(ipv4(udp(1000, 2000), protocol))
    assert (packet.protocol, packet.sport, packet.dport, packet.tcp_flags) == (protocol, 1000, 2000, None)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 41, 47, 50, 58, 59, 255])
@pytest.mark.parametrize("payload", [b"", b"\xff" * 20])
def test_protocols_without_ports(protocol: int, payload: bytes) -> None:
    """Others are packets too, whose flow has no ports whatever follows."""
    packet = decoded(ipv4(payload, protocol))
    assert (packet.protocol, packet.sport, packet.dport, packet.tcp_flags) == (protocol, None, None, None)
    assert packet.flow == decoded(ipv4(b"", protocol)).flow


def test_mapped_address_in_ipv6_is_another_flow() -> None:
    """Nobody may send it; it is not mistaken for IPv4."""
    packet = decoded(ipv6(tcp(), src="::ffff:192.168.1.10", dst="::ffff:198.51.100.7"))
    assert packet.ip_version == 6
    assert packet.dst == packed("198.51.100.7")
    assert packet.flow != decoded(ipv4(tcp())).flow


def test_flow_is_the_same_for_all_its_packets() -> None:
    """Only addresses, ports, protocol and version are in it."""
    first = decoded(ethernet(ipv4(tcp(flags=SYN, sequence=1))), 1)
    later = decoded(ipv4(tcp(flags=ACK, sequence=2) + b"data", options=bytes(8)))
    assert first.flow == later.flow
    assert (
        len({first.flow, decoded(ipv4(tcp(dport=444))).flow, decoded(ipv4(udp(40000, 443), UDP)).flow}) == 3
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_any_buffer(kind: Any) -> None:
    """Also a part of a larger one, which is read no further."""
    data = ipv4(tcp())
    assert decoder.decode(kind(data)) == decoded(data)
    assert decoder.decode(memoryview(b"\xff" + data + b"\xff")[1:-1]) == decoded(data)


def test_unpack() -> None:
    """Records are taken apart in order, with all that a packet in a capture has."""
    flow = {
        "saddr": packed("192.0.2.1"),
        "daddr": packed("192.0.2.2"),
        "sport": 1,
        "dport": 2,
        "protocol": 17,
        "family": 4,
    }
    made = ffi.new("struct egress_packet[]", 2)
    for number, record in enumerate(made):
        for name, value in flow.items():
            setattr(record.flow, name, value)
        record.ts_ns, record.tcp_seq, record.interface = 10 + number, 20 + number, 30 + number
        record.tcp_flags, record.flags = 40 + number, HAS_PORTS | HAS_TIME
    packed_flow = flow["saddr"] + flow["daddr"] + struct.pack("=HHBBH", 1, 2, 17, 4, 0)  # type: ignore[operator]
    found = list(decoder.unpack(memoryview(ffi.buffer(made))))
    assert found == [
        (packed_flow, 10 + number, 20 + number, 30 + number, 40 + number, HAS_PORTS | HAS_TIME, bytes(6))
        for number in range(2)
    ]
    assert decoder.packet(found[1]) == decoded(ipv4(udp(1, 2), 17, "192.0.2.1", "192.0.2.2"))._replace(
        tcp_seq=21
    )


SEEDS = (
    ethernet(ipv4(tcp()), tags=TAGS),
    ethernet(ipv6(extension(43) + extension(60) + extension(TCP) + tcp(), 0), 0x86DD),
    ethernet(PPPOE + b"\0\x21" + ipv4(udp(), UDP), 0x8864),
    SLL_SENT + ipv4(tcp()),
    SLL2_SENT + ipv4(tcp()),
    nflog(ipv4(tcp())),
    ipv4(tcp(), options=bytes(12)),
)


@settings(max_examples=2000, deadline=None, derandomize=True, database=None)
@given(
    seed=st.sampled_from(SEEDS),
    link_type=st.sampled_from(LINK_TYPES),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 120),
)
def test_any_bytes_have_an_outcome(
    seed: bytes, link_type: int, changes: list[tuple[int, int]], length: int
) -> None:
    """Packets that somebody made up are read or refused, the same way each time."""
    data = bytearray(seed)
    for at, value in changes:
        data[at % len(data)] = value
    found = decoder.decode(bytes(data[:length]), link_type)
    assert isinstance(found, Packet | Unreadable)
    assert found == decoder.decode(bytes(data[:length]), link_type)
    if isinstance(found, Packet):
        assert found.ip_version in (4, 6)
        assert (found.sport is None) == (found.dport is None)
        assert (found.tcp_flags is None) == (found.protocol != TCP)

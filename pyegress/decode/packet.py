# SPDX-License-Identifier: MIT
"""Bytes of one packet, or records of many -> the flow it belongs to, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pyegress.decode.layout import layout_of

FLOW_FIELDS = ("saddr", "daddr", "sport", "dport", "protocol", "family", "pad")
PACKET_FIELDS = ("flow", "ts_ns", "tcp_seq", "interface", "tcp_flags", "flags", "pad")
HAS_PORTS, HAS_TCP_FLAGS, HAS_TIME, SENT, RECEIVED = 1, 2, 4, 8, 16
"""Bits of a record's `flags`."""
SYN, ACK = 0x02, 0x10
RAW = 101
"""Link type of packets that begin with the IP header."""

Record = tuple[bytes, int, int, int, int, int, bytes]
"""Members of a `struct egress_packet`: see PACKET_FIELDS."""


class Packet(NamedTuple):
    """What a packet says of its flow."""

    flow: bytes
    """Equal for all packets of one flow in one direction."""
    ip_version: int
    protocol: int
    src: bytes
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    dst: bytes
    sport: int | None
    """None where the protocol has no ports."""
    dport: int | None
    tcp_flags: int | None
    tcp_seq: int
    sent: bool | None
    """Whether the capturing machine sent it; None where the link layer doesn't tell."""


class Unreadable(Enum):
    """Why a packet has no flow, in words that follow "packets"."""

    NOT_IP = "that are not IP"
    MALFORMED = "that are malformed"
    CUT = "cut off within addresses, ports or TCP flags"
    LATER_FRAGMENT = "that are later fragments"
    UNSUPPORTED_LINK = "of a link type that is not supported"


class PacketDecoder:
    """Decodes packets and `struct egress_packet`s. For one thread."""

    def __init__(self) -> None:
        from pyegress._native import ffi, lib

        layout = layout_of(ffi, "egress_packet", PACKET_FIELDS)
        self._iter_unpack = layout.unpack.iter_unpack
        self._unpack = layout.unpack.unpack
        self._unpack_flow = layout_of(ffi, "egress_packet_flow", FLOW_FIELDS).unpack.unpack
        self._unreadable = {getattr(lib, f"EGRESS_{reason.name}"): reason for reason in Unreadable}
        self._from_buffer = ffi.from_buffer
        self._parse = lib.egress_parse_packet
        self._out = ffi.new("struct egress_packet *")
        self._view = memoryview(ffi.buffer(self._out))

    def decode(self, data: bytes | memoryview, link_type: int = RAW) -> Packet | Unreadable:
        """The packet that begins with a header of that link type, whatever its bytes are."""
        unreadable = self._parse(self._from_buffer(data), len(data), link_type, self._out)
        if unreadable:
            return self._unreadable[unreadable]
        return self.packet(self._unpack(self._view))

    def unpack(self, records: memoryview) -> Iterator[Record]:
        """Each `struct egress_packet` of a buffer."""
        return self._iter_unpack(records)

    def packet(self, record: Record) -> Packet:
        """What `unpack` gave, as a Packet."""
        flow, _, tcp_seq, _, tcp_flags, flags, _ = record
        src, dst, sport, dport, protocol, ip_version, _ = self._unpack_flow(flow)
        has_ports = flags & HAS_PORTS
        return Packet(
            flow,
            ip_version,
            protocol,
            src,
            dst,
            sport if has_ports else None,
            dport if has_ports else None,
            tcp_flags if flags & HAS_TCP_FLAGS else None,
            tcp_seq,
            bool(flags & SENT) if flags & (SENT | RECEIVED) else None,
        )

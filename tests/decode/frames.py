# SPDX-License-Identifier: MIT
"""Packets and capture files, made byte by byte."""

from __future__ import annotations

import socket
import struct

PCAP_US, PCAP_NS, PCAP_MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, PACKET = 0x0A0D0D0A, 1, 2, 3, 6
ETHERNET, RAW = 1, 101
SYN, ACK = 0x02, 0x10
TCP, UDP = 6, 17


def packed(address: str) -> bytes:
    """16 bytes, IPv4 mapped."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


def tcp(sport: int = 40000, dport: int = 443, flags: int = SYN, sequence: int = 7) -> bytes:
    """A header without data."""
    return struct.pack(">HHIIBBHHH", sport, dport, sequence, 0, 0x50, flags, 65535, 0, 0)


def udp(sport: int = 40000, dport: int = 53, data: bytes = b"data") -> bytes:
    """A datagram."""
    return struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def ipv4(
    payload: bytes = b"",
    protocol: int = TCP,
    src: str = "192.168.1.10",
    dst: str = "198.51.100.7",
    *,
    total: int | None = None,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """A packet; `total` is the length that it says, `fragment` flags and offset."""
    header = 20 + len(options)
    length = header + len(payload) if total is None else total
    fixed = struct.pack(">BBHHHBBH", 0x40 | header // 4, 0, length, 1, fragment, 64, protocol, 0)
    return fixed + socket.inet_aton(src) + socket.inet_aton(dst) + options + payload


def ipv6(
    payload: bytes = b"",
    protocol: int = TCP,
    src: str = "2001:db8::10",
    dst: str = "2001:db8:1::7",
    *,
    length: int | None = None,
) -> bytes:
    """A packet; `length` is what it says of its payload."""
    fixed = struct.pack(">IHBB", 0x60000000, len(payload) if length is None else length, protocol, 64)
    return fixed + packed(src) + packed(dst) + payload


def ethernet(packet: bytes, ether_type: int = 0x0800, tags: tuple[int, ...] = ()) -> bytes:
    """A frame with VLAN tags of these types."""
    words = [word for tag in tags for word in (tag, 7)]
    return bytes(12) + struct.pack(f">{len(words)}HH", *words, ether_type) + packet


def pcap(
    *packets: bytes,
    link_type: int = RAW,
    magic: int = PCAP_US,
    order: str = "<",
    seconds: int = 1_700_000_000,
    fraction: int = 0,
) -> bytes:
    """A file of packets of the same time."""
    extra = bytes(8) if magic == PCAP_MODIFIED else b""
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)]
    for packet in packets:
        head = struct.pack(order + "IIII", seconds, fraction, len(packet), len(packet))
        parts.append(head + extra + packet)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A block of a pcapng file."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def options(order: str = "<", **values: bytes) -> bytes:
    """Options by number, as `_9=b"..."`, and their end."""
    made = b""
    for number, value in values.items():
        made += struct.pack(order + "HH", int(number[1:]), len(value)) + value + bytes(-len(value) % 4)
    return made + bytes(4)


def section(order: str = "<") -> bytes:
    """The beginning of a section."""
    return block(SECTION, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = RAW, order: str = "<", snap: int = 0, **values: bytes) -> bytes:
    """An interface with options."""
    return block(INTERFACE, struct.pack(order + "HHI", link_type, 0, snap) + options(order, **values), order)


def enhanced(packet: bytes, number: int = 0, ticks: int = 0, order: str = "<", **values: bytes) -> bytes:
    """A packet of an interface, with options."""
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet))
    padded = packet + bytes(-len(packet) % 4)
    return block(PACKET, head + padded + (options(order, **values) if values else b""), order)

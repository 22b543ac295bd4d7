# SPDX-License-Identifier: MIT
"""What tells a program at once that its packet was refused, as the destination would: a TCP reset, or an ICMP error.

It goes from the destination's address to the packet's source, so that the kernel takes it for the answer.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from pyegress.errors import UnsupportedError

MARK = 0x70796567
"""`pyeg`, the mark of every refusal: a rule that queues it again must find it let through."""

_TCP, _ICMP, _ICMPV6 = 6, 1, 58
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_HOP_LIMIT = 64
_IPV4_BYTES, _IPV6_BYTES, _TCP_BYTES = 20, 40, 20
_QUOTED_BYTES = {4: 576 - 28, 6: 1280 - 48}
"""How much of the packet an error quotes: RFC 1812, 4.3.2.3 and RFC 4443, 2.4."""
_UNREACHABLE = {4: struct.pack("!BBHI", 3, 3, 0, 0), 6: struct.pack("!BBHI", 1, 4, 0, 0)}
"""Port unreachable, the one code that a connected UDP socket takes for a refusal."""
_ECHO_REQUEST = {_ICMP: b"\x08", _ICMPV6: b"\x80"}
_EXTENSIONS = frozenset((0, 60))
"""Hop-by-hop and destination options: what else may stand before TCP changes who it is for."""


class _Refused(NamedTuple):
    """The packet that is refused."""

    version: int
    src: bytes
    dst: bytes
    protocol: int
    at: int
    """Where the transport header is."""
    total: int
    """Length of the whole packet, which may have been copied in part."""


def refusal_of(payload: bytes) -> bytes | None:
    """The IP packet that refuses this one; None where there is none to give."""
    packet = _ipv4(payload) if payload[:1] < b"\x50" else _ipv6(payload)
    if packet is None or not _may_answer(packet):
        return None
    if packet.protocol == _TCP:
        segment = _reset(packet, payload)
        return segment and _enveloped(packet, _TCP, 16, segment)
    request = _ECHO_REQUEST.get(packet.protocol)
    # RFC 1122, 3.2.2: no error tells of an error.
    if request is not None and payload[packet.at : packet.at + 1] != request:
        return None
    icmp = _ICMP if packet.version == 4 else _ICMPV6
    return _enveloped(
        packet, icmp, 2, _UNREACHABLE[packet.version] + payload[: _QUOTED_BYTES[packet.version]]
    )


class Refuser:
    """Sends refusals; for one thread. Raises UnsupportedError where it must not."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        """Refusals that could not be sent."""
        self._sockets: dict[int, socket.socket] = {}
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                self._open(version, family)
        except OSError as error:
            self.close()
            name = errno.errorcode.get(error.errno or 0, str(error))
            raise UnsupportedError(
                f"nfqueue: can't send refusals: {name}: needs CAP_NET_RAW and CAP_NET_ADMIN; "
                "run as root, or let the default be drop"
            ) from error

    def refuse(self, payload: bytes, ifindex: int = 0) -> bool:
        """Answer this packet with a refusal, if it can be; `ifindex` is where it was to leave by."""
        answer = refusal_of(payload)
        if answer is None:
            return False
        version = answer[0] >> 4
        try:
            if version == 4:
                self._sockets[4].sendto(answer, (socket.inet_ntop(socket.AF_INET, answer[16:20]), 0))
            else:
                to = answer[24:40]
                scope = ifindex if _is_link_local(to) else 0
                self._sockets[6].sendto(answer, (socket.inet_ntop(socket.AF_INET6, to), 0, 0, scope))
        except (OSError, KeyError):  # KeyError: a kernel without IPv6
            self.failed += 1
            return False
        self.sent += 1
        return True

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        for own in self._sockets.values():
            own.close()
        self._sockets.clear()

    def _open(self, version: int, family: int) -> None:
        try:
            # IPPROTO_RAW: the header is ours too.
            own = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        except OSError as error:
            if version == 6 and error.errno == errno.EAFNOSUPPORT:
                return
            raise
        self._sockets[version] = own
        own.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        own.setblocking(False)


def _ipv4(payload: bytes) -> _Refused | None:
    if len(payload) < _IPV4_BYTES or payload[0] >> 4 != 4:
        return None
    header_bytes = (payload[0] & 15) * 4
    total, fragment = struct.unpack_from("!H2xH", payload, 2)
    if header_bytes < _IPV4_BYTES or len(payload) < header_bytes or fragment & 0x1FFF:
        return None
    # 0: longer than the field can tell, before it is cut for the interface.
    return _Refused(4, payload[12:16], payload[16:20], payload[9], header_bytes, total or len(payload))


def _ipv6(payload: bytes) -> _Refused | None:
    if len(payload) < _IPV6_BYTES or payload[0] >> 4 != 6:
        return None
    following, at = payload[6], _IPV6_BYTES
    while following in _EXTENSIONS and at + 2 <= len(payload):
        following, at = payload[at], at + payload[at + 1] * 8 + 8
    length = int.from_bytes(payload[4:6], "big")
    total = length + _IPV6_BYTES if length else len(payload)
    return _Refused(6, payload[8:24], payload[24:40], following, at, total)


def _may_answer(packet: _Refused) -> bool:
    """From one host to one host: RFC 1122, 3.2.2 and RFC 4443, 2.4 (e)."""
    if packet.version == 4:
        return not (
            IPv4Address(packet.dst).is_multicast
            or packet.dst == b"\xff" * 4
            or 0 in (packet.src[0], packet.dst[0])
        )
    return not (IPv6Address(packet.dst).is_multicast or bytes(16) in (packet.src, packet.dst))


def _reset(packet: _Refused, payload: bytes) -> bytes | None:
    """RFC 9293, 3.10.7.1: what a host answers that knows nothing of the connection."""
    if len(payload) < packet.at + _TCP_BYTES:
        return None
    sport, dport, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", payload, packet.at)
    if flags & _RST:
        return None
    if flags & _ACK:
        return struct.pack("!HHIIBB6x", dport, sport, ack, 0, 5 << 4, _RST)
    data = max(packet.total - packet.at - (offset >> 4) * 4, 0)
    length = data + bool(flags & _SYN) + bool(flags & _FIN)
    return struct.pack("!HHIIBB6x", dport, sport, 0, seq + length & 0xFFFFFFFF, 5 << 4, _RST | _ACK)


def _enveloped(packet: _Refused, protocol: int, checksum_at: int, content: bytes) -> bytes:
    """The content with its checksum, in an IP packet from the refused one's destination to its source."""
    src, dst, size = packet.dst, packet.src, len(content)
    covered = content
    if protocol != _ICMP:
        covered = src + dst + struct.pack("!II", size, protocol) + content
    checksum = struct.pack("!H", _checksum(covered))
    content = content[:checksum_at] + checksum + content[checksum_at + 2 :]
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28, size, protocol, _HOP_LIMIT) + src + dst + content
    header = struct.pack("!BBHIBBH", 0x45, 0, _IPV4_BYTES + size, 0, _HOP_LIMIT, protocol, 0) + src + dst
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + content


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80

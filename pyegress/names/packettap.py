# SPDX-License-Identifier: MIT
"""DNS and hellos in packets of one network namespace, by a packet socket: where our own programs can't be."""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pyegress.errors import UnsupportedError
from pyegress.names.segment import DNS_PORT, FIN, RST, SYN, TCP, UDP, Segment, ends_of

BUFFER_BYTES = 4 << 20
AT_ONCE = 4096
"""Packets of one `read`, so that a flood keeps nobody from looking around."""
_MOST_BYTES = 1 << 16
_ETH_P_ALL = 3
_OUTGOING, _TO_US = 4, 0
_SO_ATTACH_FILTER, _SOL_PACKET, _PACKET_STATISTICS = 26, 263, 6
_MAPPED = b"\0" * 10 + b"\xff\xff"


class _Step(NamedTuple):
    """An instruction of the filter; labels are words between them, no label is the next one."""

    name: str
    operand: int
    true: str = ""
    false: str = ""


_DNS = (
    *(_Step("ldh x", 0), _Step("jeq", DNS_PORT, "keep")),
    *(_Step("ldh x", 2), _Step("jeq", DNS_PORT, "keep")),
)
_QUIC = (
    # Initial packets of versions 1 and 2, in datagrams of 1,200 bytes and more.
    *(_Step("ldh x", 4), _Step("jge", 1208, "", "drop"), _Step("ldb x", 8), _Step("and", 0xF0)),
    *(_Step("jeq", 0xC0, "one"), _Step("jeq", 0xD0, "", "drop")),
    *(_Step("ldw x", 9), _Step("jeq", 0x6B3343CF, "keep", "drop")),
    *("one", _Step("ldw x", 9), _Step("jeq", 1, "keep", "drop")),
)
_TLS = (
    # A handshake record whose first message is a ClientHello.
    *(_Step("ldb x", 12), _Step("and", 0xF0), _Step("shift", 2), _Step("add x", 0), _Step("tax", 0)),
    *(
        _Step("ldh x", 0),
        _Step("jeq", 0x1603, "", "drop"),
        _Step("ldb x", 5),
        _Step("jeq", 1, "keep", "drop"),
    ),
)
_CODES = {
    "ldw x": 0x40,
    "ldh x": 0x48,
    "ldb x": 0x50,
    "ldh": 0x28,
    "ldb": 0x30,
    "ldx": 0x01,
    "ldx header": 0xB1,
    "and": 0x54,
    "shift": 0x74,
    "add x": 0x0C,
    "tax": 0x07,
    "jeq": 0x15,
    "jge": 0x35,
    "jset": 0x45,
    "ret": 0x06,
}
"""Of linux/bpf_common.h."""


class PacketTap:
    """Open from construction until `close`. Raises UnsupportedError with the cause. For one thread."""

    place = "packet socket"

    def __init__(self, hellos: bool = False, same_link: bool = False) -> None:
        """`hellos`: what begins TLS and QUIC connections too, of which each comes in one packet.

        `same_link`: an answer must come by the interface that its question left by, so that who is behind another one,
        such as a container, can't forge it.
        """
        self._hellos = hellos
        self._same_link = same_link
        self.lost = 0
        """What the full buffer had no room for."""
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        except OSError as error:
            raise UnsupportedError(f"packet socket: {error.strerror}") from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            lines = assembled(hellos)
            code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
            program = struct.pack("@HP", len(lines), ctypes.addressof(code))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as error:
            self._socket.close()
            raise UnsupportedError(f"packet socket: {error.strerror}") from None

    def fileno(self) -> int:
        """Readable when something has come."""
        return self._socket.fileno()

    def read(self) -> Iterator[Segment]:
        """What waits, in the order in which it passed."""
        for _ in range(AT_ONCE):
            try:
                packet, address = self._socket.recvfrom(_MOST_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an interface went down, which the socket tells once
                continue
            segment = segment_of(packet, time.clock_gettime_ns(time.CLOCK_BOOTTIME), self._hellos)
            # What loops back passes twice.
            if segment is not None and address[2] == (_TO_US if segment.is_answer else _OUTGOING):
                if self._same_link:
                    segment = segment._replace(ends=segment.ends._replace(link=address[0]))
                yield segment
        with suppress(OSError):
            self.lost += struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]

    def close(self) -> None:
        """Let go; may be called twice."""
        self._socket.close()


def assembled(hellos: bool) -> list[tuple[int, int, int, int]]:
    """The filter as the kernel takes it: code, instructions to skip if true, if not, operand."""
    steps: list[_Step] = []
    places: dict[str, int] = {}
    for part in _parts(hellos):
        if isinstance(part, str):
            places[part] = len(steps)
        else:
            steps.append(part)
    return [
        (_CODES[step.name], _skipped(places, step.true, at), _skipped(places, step.false, at), step.operand)
        for at, step in enumerate(steps)
    ]


def _skipped(places: dict[str, int], label: str, at: int) -> int:
    return places[label] - at - 1 if label else 0


def _parts(hellos: bool) -> Iterator[str | _Step]:
    # No later fragments; X becomes where the ports are.
    yield from (_Step("ldb", 0), _Step("and", 0xF0), _Step("jeq", 0x40, "v4"), _Step("jeq", 0x60, "", "drop"))
    yield from (_Step("ldx", 40), _Step("ldb", 6), _Step("jeq", UDP, "udp"), _Step("jeq", TCP, "tcp", "drop"))
    yield from ("v4", _Step("ldh", 6), _Step("jset", 0x1FFF, "drop"), _Step("ldx header", 0), _Step("ldb", 9))
    yield from (_Step("jeq", UDP, "udp"), _Step("jeq", TCP, "tcp", "drop"))
    yield from ("udp", *_DNS, *(_QUIC if hellos else (_Step("ret", 0),)))
    yield from ("tcp", *_DNS, *(_TLS if hellos else ()))
    yield from ("drop", _Step("ret", 0), "keep", _Step("ret", _MOST_BYTES))


def segment_of(packet: bytes, ts_ns: int, hellos: bool = False) -> Segment | None:
    """Of a packet that begins with the IP header; None where it is not whole, or nothing to or from port 53.

    `hellos`: what is to another port is taken for the beginning of TLS or QUIC.
    """
    try:
        return _segment_of(packet, ts_ns, hellos)
    except (struct.error, IndexError):
        return None


def _segment_of(packet: bytes, ts_ns: int, hellos: bool) -> Segment | None:
    version = packet[0] >> 4
    if version == 4:
        protocol, at = packet[9], (packet[0] & 15) * 4
        src, dst = _MAPPED + packet[12:16], _MAPPED + packet[16:20]
        (length, _, fragment) = struct.unpack_from("!HHH", packet, 2)
        if fragment & 0x1FFF:
            return None
        # 0: made by the kernel for a card to cut up.
        whole = length or len(packet)
    elif version == 6:
        protocol, at = packet[6], 40
        src, dst = packet[8:24], packet[24:40]
        length = struct.unpack_from("!H", packet, 4)[0]
        whole = at + length if length else len(packet)
    else:
        return None
    if protocol not in (UDP, TCP):
        return None
    sport, dport = struct.unpack_from("!HH", packet, at)
    if not hellos and DNS_PORT not in (sport, dport):
        return None
    seq = flags = 0
    if protocol == UDP:
        start = at + 8
    else:
        seq = struct.unpack_from("!I", packet, at + 4)[0]
        start = at + (packet[at + 12] >> 4) * 4
        flags = packet[at + 13] & (FIN | SYN | RST)
    payload = packet[start:whole]
    if start > whole or not (payload or flags):
        return None
    is_answer = sport == DNS_PORT
    ends = ends_of(is_answer, protocol, src, sport, dst, dport)
    return Segment(ends, is_answer, payload, ts_ns, start + len(payload) < whole, seq, flags)

# SPDX-License-Identifier: MIT
"""What a tap hands on: the payload of a datagram, or a piece of a TCP stream, to or from port 53 or of a hello."""

from __future__ import annotations

from typing import NamedTuple

DNS_PORT = 53
TCP, UDP = 6, 17
FIN, SYN, RST = 0x01, 0x02, 0x04


class Ends(NamedTuple):
    """Who asks whom: the same for a question and its answer."""

    protocol: int
    client: bytes
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    client_port: int
    server: bytes
    socket: int
    """Tells sockets of different network namespaces apart; 0 where the tap can't."""
    server_port: int = DNS_PORT
    """Another one: the segment begins TLS or QUIC, or goes on with that."""
    link: str = ""
    """The interface where it passed; empty where that doesn't matter."""


def ends_of(
    is_answer: bool, protocol: int, src: bytes, sport: int, dst: bytes, dport: int, socket: int = 0
) -> Ends:
    """Of what goes from one address and port to another."""
    if is_answer:
        return Ends(protocol, dst, dport, src, socket)
    return Ends(protocol, src, sport, dst, socket, dport)


class Segment(NamedTuple):
    """One of them."""

    ends: Ends
    is_answer: bool
    """From port 53."""
    payload: bytes
    ts_ns: int
    """When it was seen, ns of CLOCK_BOOTTIME."""
    is_cut: bool = False
    """There was more of it than `payload`."""
    seq: int = 0
    """TCP: number of the first byte, or of the SYN."""
    flags: int = 0
    """TCP's."""
    tgid: int = 0
    """Of a question over UDP: who asked, in the initial pid namespace; 0 where it isn't known."""

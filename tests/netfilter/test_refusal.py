# SPDX-License-Identifier: MIT
"""Refusals: their bytes, and that programs on the real kernel fail at once by them."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.netfilter.messages import Queued
from pyegress.netfilter.queue import Queue
from pyegress.netfilter.refusal import MARK, Refuser, refusal_of
from tests.netns import add_link, needs_netfilter, own_netns, run

SRC, DST = "192.0.2.1", "198.51.100.7"
SRC6, DST6 = "2001:db8::1", "2001:db8:1::7"
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SEQ, PEER_SEQ = 0xFFFFFFFF, 77
MSG_FASTOPEN = 0x20000000
ECHO_REQUEST = struct.pack("!BBHHH", 8, 0, 0, 1, 1)


def ipv4(content: bytes, protocol: int = TCP, src: str = SRC, dst: str = DST, options: bytes = b"") -> bytes:
    """A packet with this content."""
    words = 5 + len(options) // 4
    header = struct.pack("!BBHIBBH", 0x40 | words, 0, words * 4 + len(content), 1 << 16, 64, protocol, 0)
    return header + ip_address(src).packed + ip_address(dst).packed + options + content


def ipv6(content: bytes, protocol: int = TCP, src: str = SRC6, dst: str = DST6) -> bytes:
    """A packet with this content."""
    header = struct.pack("!IHBB", 6 << 28, len(content), protocol, 64)
    return header + ip_address(src).packed + ip_address(dst).packed + content


def tcp(flags: int, data: bytes = b"", options: bytes = b"") -> bytes:
    """A segment from port 40000 to 443."""
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", 40000, 443, SEQ, PEER_SEQ, words << 4, flags, 9, 0, 0) + options + data


UDP_DATA = struct.pack("!HHHH", 40000, 53, 12, 0) + b"data"


def ones_sum(data: bytes) -> int:
    """What a receiver checks: 0xffff where all is right."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def content_of(answer: bytes) -> tuple[int, bytes]:
    """Protocol and content of a refusal, once its addresses, lengths and checksums are right."""
    if answer[0] >> 4 == 4:
        assert ones_sum(answer[:20]) == 0xFFFF
        assert int.from_bytes(answer[2:4], "big") == len(answer)
        assert (answer[12:16], answer[16:20]) == (ip_address(DST).packed, ip_address(SRC).packed)
        protocol, content, covered = answer[9], answer[20:], answer[12:20]
    else:
        assert int.from_bytes(answer[4:6], "big") == len(answer) - 40
        assert (answer[8:24], answer[24:40]) == (ip_address(DST6).packed, ip_address(SRC6).packed)
        protocol, content, covered = answer[6], answer[40:], answer[8:40]
    if protocol != ICMP:
        assert ones_sum(covered + struct.pack("!II", len(content), protocol) + content) == 0xFFFF
    else:
        assert ones_sum(content) == 0xFFFF
    return protocol, content


@pytest.mark.parametrize("wrap", [ipv4, ipv6])
@pytest.mark.parametrize(
    ("segment", "seq", "ack", "flags"),
    [
        pytest.param(tcp(SYN), 0, 0, RST | ACK, id="syn"),
        pytest.param(tcp(SYN, options=bytes(20)), 0, 0, RST | ACK, id="options"),
        pytest.param(tcp(SYN, b"hello", options=bytes(4)), 0, 5, RST | ACK, id="fast open"),
        pytest.param(tcp(SYN | 0xC0), 0, 0, RST | ACK, id="ecn"),
        pytest.param(tcp(FIN, b"a"), 0, 1, RST | ACK, id="fin"),
        pytest.param(tcp(SYN | ACK), PEER_SEQ, 0, RST, id="syn-ack"),
        pytest.param(tcp(PSH | ACK, b"data"), PEER_SEQ, 0, RST, id="established"),
    ],
)
def test_reset(wrap: type, segment: bytes, seq: int, ack: int, flags: int) -> None:
    """RFC 9293, 3.10.7.1: with the numbers that the sender takes; sequence numbers wrap."""
    answer = refusal_of(wrap(segment))
    assert answer is not None
    protocol, content = content_of(answer)
    assert protocol == TCP
    assert struct.unpack("!HHIIBBHHH", content)[:6] == (443, 40000, seq, ack, 5 << 4, flags)


def test_reset_counts_what_was_not_copied() -> None:
    """The IP header tells how much data there was, or an overlong packet the copy."""
    whole = ipv4(tcp(SYN, bytes(1000)))
    for packet in (whole[:100], whole[:2] + b"\0\0" + whole[4:]):
        answer = refusal_of(packet)
        assert answer is not None
        assert struct.unpack_from("!I", answer, 28) == (1000,)


def test_port_unreachable() -> None:
    """It quotes the packet, as much as RFC 1812 and RFC 4443 allow."""
    for packet, least, kind in (
        (ipv4(UDP_DATA, UDP), (3, 3), ICMP),
        (ipv4(UDP_DATA + b"!", UDP, options=bytes(8)), (3, 3), ICMP),
        (ipv4(bytes(9000), 132), (3, 3), ICMP),
        (ipv4(ECHO_REQUEST, ICMP), (3, 3), ICMP),
        (ipv6(UDP_DATA, UDP), (1, 4), ICMPV6),
        (ipv6(UDP_DATA + b"!", UDP), (1, 4), ICMPV6),
        (ipv6(bytes(9000), 132), (1, 4), ICMPV6),
        (ipv6(b"\x80" + bytes(7), ICMPV6), (1, 4), ICMPV6),
    ):
        answer = refusal_of(packet)
        assert answer is not None
        assert len(answer) <= (576 if kind == ICMP else 1280)
        protocol, content = content_of(answer)
        assert (protocol, tuple(content[:2]), content[4:8]) == (kind, least, bytes(4))
        assert packet.startswith(content[8:])
        assert len(content) == min(8 + len(packet), 556 if kind == ICMP else 1240)


def test_tcp_behind_ipv6_options() -> None:
    """Hop-by-hop and destination options are skipped; a fragment gets an ICMP error."""
    options = b"\x3c\x01" + bytes(14) + b"\x06\0" + bytes(6)
    answer = refusal_of(ipv6(options + tcp(SYN, b"abc"), 0))
    assert answer is not None
    protocol, content = content_of(answer)
    assert (protocol, struct.unpack_from("!I", content, 8)) == (TCP, (3,))
    fragment = refusal_of(ipv6(b"\x06\0" + bytes(6) + tcp(SYN), 44))
    assert fragment is not None
    assert content_of(fragment)[0] == ICMPV6


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(ipv4(tcp(SYN))[:19], id="cut IPv4 header"),
        pytest.param(ipv4(tcp(SYN))[:39], id="cut TCP header"),
        pytest.param(ipv4(tcp(SYN), options=bytes(8))[:24], id="cut IPv4 options"),
        pytest.param(b"\x44" + ipv4(tcp(SYN))[1:], id="IHL 4"),
        pytest.param(b"\x55" + ipv4(tcp(SYN))[1:], id="version 5"),
        pytest.param(b"\x35" + ipv4(tcp(SYN))[1:], id="version 3"),
        pytest.param(ipv6(tcp(SYN))[:39], id="cut IPv6 header"),
        pytest.param(ipv6(tcp(SYN))[:59], id="cut TCP header over IPv6"),
        pytest.param(ipv4(tcp(RST)), id="reset"),
        pytest.param(ipv4(tcp(RST | ACK)), id="reset with ack"),
        pytest.param(ipv4(tcp(SYN))[:6] + b"\x00\x01" + ipv4(tcp(SYN))[8:], id="later fragment"),
        pytest.param(ipv4(b"\x03" + bytes(7), ICMP), id="ICMP error"),
        pytest.param(ipv4(b"", ICMP), id="no ICMP"),
        pytest.param(ipv6(b"\x01" + bytes(7), ICMPV6), id="ICMPv6 error"),
        pytest.param(ipv6(b"\x87" + bytes(23), ICMPV6), id="neighbour solicitation"),
        pytest.param(ipv4(UDP_DATA, UDP, dst="224.0.0.251"), id="multicast"),
        pytest.param(ipv4(UDP_DATA, UDP, dst="255.255.255.255"), id="broadcast"),
        pytest.param(ipv4(UDP_DATA, UDP, src="0.0.0.0"), id="no source"),
        pytest.param(ipv6(UDP_DATA, UDP, dst="ff02::fb"), id="IPv6 multicast"),
        pytest.param(ipv6(UDP_DATA, UDP, src="::"), id="no IPv6 source"),
    ],
)
def test_no_refusal(payload: bytes) -> None:
    """Where there is none to give, or the packet can't be read."""
    assert refusal_of(payload) is None


@given(
    st.sampled_from([b"", ipv4(tcp(SYN)), ipv6(tcp(SYN)), ipv6(tcp(SYN), 0)]),
    st.binary(max_size=80),
    st.data(),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes(packet: bytes, noise: bytes, data: st.DataObject) -> None:
    """Whatever a packet is, it never raises, and what it gives is an IP packet."""
    at = data.draw(st.integers(0, len(packet)))
    answer = refusal_of(packet[:at] + noise + packet[at + len(noise) :])
    assert answer is None or (answer[0] >> 4 in (4, 6) and len(answer) <= 1280)


NUMBER = 3


@contextmanager
def refusing() -> Iterator[tuple[list[Queued], Refuser]]:
    """Queue everything that leaves, refuse and drop it; the packets that came, and the refuser."""
    queue = Queue(NUMBER, 1000, 1 << 20, False)
    refuser = Refuser()
    seen: list[Queued] = []
    done = Event()
    waker, woken = socket.socketpair()

    def serve() -> None:
        while not done.is_set():
            select.select([queue, woken], [], [])
            for packet in queue.receive():
                seen.append(packet)
                own = packet.mark == MARK
                if not own:
                    refuser.refuse(packet.payload, packet.outdev or 0)
                queue.verdict(packet.packet_id, own)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield seen, refuser
    finally:
        done.set()
        waker.send(b"x")
        thread.join()
        queue.close()
        refuser.close()
        waker.close()
        woken.close()


@pytest.fixture
def netns() -> Iterator[None]:
    """A network namespace with a link whose packets go to the queue, and those of lo too."""
    with own_netns():
        add_link()
        for command in ("iptables", "ip6tables"):
            run(
                f"{command} -t mangle -A OUTPUT -m conntrack --ctstate NEW,INVALID -j NFQUEUE --queue-num {NUMBER}"
            )
        yield


DESTINATIONS = [
    "198.51.100.7",
    "2001:db8:1::7",
    "fd12::7",
    "fe80::7%out0",
    "::ffff:198.51.100.7",
    "127.0.0.1",
    "::1",
]


@needs_netfilter
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("host", DESTINATIONS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_program_fails_at_once(host: str, kind: socket.SocketKind) -> None:
    """TCP at its connect, connected UDP at the next call; and the refusal itself is never refused."""
    family, _, _, _, address = socket.getaddrinfo(host, 443, type=kind)[0]
    with refusing() as (seen, refuser), socket.socket(family, kind) as program:
        program.settimeout(60)
        with pytest.raises(ConnectionRefusedError):
            program.connect(address)
            program.send(b"x" * 1000)
            program.recv(1)
        refused = [packet for packet in seen if packet.mark != MARK]
        assert (len(refused), refuser.sent, refuser.failed) == (1, 1, 0)


@needs_netfilter
@pytest.mark.usefixtures("netns")
def test_fast_open_is_refused() -> None:
    """A SYN that carries data."""
    # 4: data without a cookie.
    run("echo 5 >/proc/sys/net/ipv4/tcp_fastopen")
    with refusing() as (seen, _), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as program:
        program.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        with pytest.raises(ConnectionRefusedError):
            program.sendto(b"hello", MSG_FASTOPEN, (DST, 443))
        assert seen[0].payload.endswith(b"hello")


@needs_netfilter
@pytest.mark.usefixtures("netns")
def test_failures_are_counted() -> None:
    """No route back, a malformed packet, a closed socket: never an exception."""
    with closing(Refuser()) as refuser:
        assert refuser.refuse(ipv4(tcp(SYN)))
        assert not refuser.refuse(b"\x45")
        assert (refuser.sent, refuser.failed) == (1, 0)
        run("ip link set lo down && ip link set out0 down")
        assert not refuser.refuse(ipv4(tcp(SYN), src="203.0.113.1"))
        assert not refuser.refuse(ipv6(tcp(SYN), src="2001:db8:99::1"))
        assert (refuser.sent, refuser.failed) == (1, 2)
        refuser.close()
        assert not refuser.refuse(ipv4(tcp(SYN)))
        assert (refuser.sent, refuser.failed) == (1, 3)


@needs_netfilter
def test_no_permission() -> None:
    """The capability is named, with the way around it."""
    program = (
        "from pyegress.errors import UnsupportedError\n"
        "from pyegress.netfilter.refusal import Refuser\n"
        "try:\n    Refuser()\nexcept UnsupportedError as error:\n    print(error)"
    )
    command = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == (
        "nfqueue: can't send refusals: EPERM: needs CAP_NET_RAW and CAP_NET_ADMIN; "
        "run as root, or let the default be drop\n"
    )

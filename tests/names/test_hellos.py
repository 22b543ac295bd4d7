# SPDX-License-Identifier: MIT
"""What real clients say first names the address that they say it to, however it is cut; memory stays bounded."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.names import hellos
from pyegress.names.cgrouptap import CgroupTap
from pyegress.names.hellos import MOST_FLOWS, MOST_STREAMS, Hellos
from pyegress.names.memory import Memory
from pyegress.names.packettap import PacketTap
from pyegress.names.segment import TCP, UDP, Segment
from tests.names.hello import VERSION_1, VERSION_2, quic, tls
from tests.names.wire import ENDS, STREAM
from tests.netns import own_netns

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
TLS, QUIC = STREAM._replace(server_port=443), ENDS._replace(server_port=443)
HELLO = tls("www.example")
ADDRESS = "198.18.0.53"


class Learning:
    """Hellos, and what is learned from them."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.notices: list[str] = []
        self.hellos = Hellos(self.memory, self.notices.append)

    def stream(self, *pieces: bytes, client: int = 1, start: int = 2**32 - 3) -> None:
        """Pieces of one TCP stream, one after the other."""
        for piece in pieces:
            ends = TLS._replace(client_port=client)
            self.hellos.take(Segment(ends, False, piece, 0, seq=start % 2**32))
            start += len(piece)

    def datagrams(self, *datagrams: bytes, client: int = 1) -> None:
        """Datagrams of one flow."""
        for datagram in datagrams:
            self.hellos.take(Segment(QUIC._replace(client_port=client), False, datagram, 0))

    def names(self, address: str = ADDRESS) -> list[tuple[str, str]]:
        """Of the address that all is said to, with their sources."""
        return [(named.name, named.source) for named in self.memory.names(address, 0)]


@pytest.mark.parametrize("cuts", [(), (6,), (6, 7, 100), (len(HELLO) - 1,)], ids=str)
def test_tls(cuts: Sequence[int]) -> None:
    """In one segment or some."""
    made = Learning()
    made.stream(*(HELLO[start:end] for start, end in zip((0, *cuts), (*cuts, len(HELLO)), strict=True)))
    assert made.names() == [("www.example", "sni")]
    assert (len(made.hellos), made.hellos.unused) == (0, {})


def test_tls_without_a_name_or_whole() -> None:
    """Nothing is learned: none is given, a part is missing, or it is none."""
    made = Learning()
    made.stream(tls(None))
    made.stream(HELLO[:100], client=2)
    made.stream(HELLO[101:], client=2, start=9)
    made.stream(b"\x16\x03\1\0\5\1\0\0\1\0", b"GET / HTTP/1.1", client=3)
    assert made.names() == []
    assert made.hellos.unused == {"without a name": 1, "malformed": 1}


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_quic(version: int) -> None:
    """In one packet, in some and out of order, and again by the next connection of the same socket."""
    made = Learning()
    made.datagrams(*quic("one.example", version))
    long = quic("two.example", version, protocols=8)
    assert len(long) > 1
    made.datagrams(*reversed(long), *long)
    assert made.names() == [("one.example", "sni"), ("two.example", "sni")]
    assert (made.hellos.held_bytes, made.hellos.unused) == (0, {})


def test_quic_of_a_server() -> None:
    """What isn't protected by a client's keys is counted."""
    made = Learning()
    (datagram,) = quic("www.example")
    made.datagrams(datagram[:6] + bytes(8) + datagram[14:])
    assert (made.names(), made.hellos.unused) == ([], {"not of a client": 1})


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS goes on, and what is missing is said."""
    monkeypatch.delitem(sys.modules, "pyegress.names.quic", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    made = Learning()
    made.datagrams(*quic("one.example"))
    made.stream(HELLO)
    assert made.names() == [("www.example", "sni")]
    assert made.notices == ["names: those of QUIC need the package cryptography: pip install 'pyegress[sni]'"]


def test_what_is_never_whole_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, counted; the newest is still learned."""
    monkeypatch.setattr(hellos, "MOST_STREAMS", 4)
    monkeypatch.setattr(hellos, "MOST_FLOWS", 4)
    made = Learning()
    first, *_ = quic("two.example", protocols=8)
    for client in range(10):
        made.stream(HELLO[:100], client=client)
        made.datagrams(first, client=client)
    assert made.hellos.unused == {"not whole when others needed the place": 12}
    assert len(made.hellos) == 8
    made.stream(HELLO[100:], client=9, start=2**32 - 3 + 100)
    assert made.names() == [("www.example", "sni")]


def test_answers_come_before() -> None:
    """A name that DNS told of an address stays DNS's."""
    made = Learning()
    made.memory.learn(ADDRESS, ("www.example",), "dns", 60, 0)
    made.stream(HELLO)
    assert made.names() == [("www.example", "dns")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TCP, UDP]),
            st.integers(0, 3),
            st.integers(0, 600),
            st.one_of(st.binary(max_size=40), st.sampled_from([HELLO, HELLO[:99], *quic("a.example")])),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_any_segments(given: list[tuple[int, int, int, bytes, bool]]) -> None:
    """Neither crash nor grow it."""
    made = Learning()
    for protocol, client, seq, payload, is_cut in given:
        ends = QUIC._replace(protocol=protocol, client_port=client)
        made.hellos.take(Segment(ends, False, payload, 0, is_cut, seq))
    assert len(made.hellos) <= MOST_STREAMS + MOST_FLOWS
    assert made.hellos.held_bytes <= 8 * 16_400


@needs_root
@pytest.mark.parametrize("kind", [CgroupTap, PacketTap])
def test_through_the_kernel(kind: type[CgroupTap] | type[PacketTap]) -> None:
    """Only hellos are handed on; the kernel's own programs hand on their later segments too."""
    made = Learning()
    with own_netns(), socket.socket() as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        server.bind(("198.18.5.0", 0))
        server.listen()
        tap = kind(hellos=True)
        try:
            datagrams.sendto(b"x" * 1300, ("198.18.5.1", 443))
            for datagram in quic("quic.example", protocols=8):
                datagrams.sendto(datagram, ("198.18.5.2", 443))
            for cut, name in (0, "one.example"), (50, "some.example"):
                hello = tls(name)
                with (
                    socket.create_connection(server.getsockname(), 30) as client,
                    server.accept()[0] as other,
                ):
                    other.settimeout(30)
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in filter(None, (hello[:cut], hello[cut:], b"other data")):
                        client.sendall(piece)
                        assert other.recv(4096) == piece
            segments = [one for one in tap.read() if one.ends.server[12:].startswith(b"\xc6\x12\5")]
        finally:
            tap.close()
    for segment in segments:
        made.hellos.take(segment)
    assert made.names("198.18.5.2") == [("quic.example", "sni")]
    told = ["one.example", "some.example"] if kind is CgroupTap else ["one.example"]
    assert made.names("198.18.5.0") == [(name, "sni") for name in told]
    assert not [segment for segment in segments if segment.payload.startswith(b"xxxx")]
    assert b"other data" not in [segment.payload for segment in segments]

# SPDX-License-Identifier: MIT
"""The tap of the kernel: DNS of all sockets on the host, whole, and no packet the worse for it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pyegress import _native, kernel
from pyegress.errors import UnsupportedError
from pyegress.names.cgrouptap import CgroupTap
from pyegress.names.memory import Memory
from pyegress.names.observed import ObservedDns
from pyegress.names.segment import Segment
from tests.guest import Unavailable
from tests.names.resolved import asked_by_varlink, program
from tests.names.resolving import (
    MANY,
    SERVER,
    STUB,
    asked,
    needs_resolver,
    resolving,
    resolving_by_systemd,
)
from tests.names.wire import answer, question
from tests.netns import needs_netfilter, own_netns, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FORGER = "198.18.0.99"


def mine(tap: CgroupTap, *servers: str) -> list[Segment]:
    """What was said with those servers; there is other DNS on the host."""
    packed = {b"\0" * 10 + b"\xff\xff" + socket.inet_aton(server) for server in servers}
    return [segment for segment in tap.read() if segment.ends.server in packed]


@needs_resolver
def test_answers_of_a_resolver() -> None:
    """Over UDP, over TCP after what was cut off, for IPv6, through a stub, and that there is no such name."""
    memory = Memory()
    dns = ObservedDns(memory)
    with resolving():
        tap = CgroupTap()
        try:
            assert asked("www.example.", server=STUB) == {"198.18.2.1"}
            assert asked("www.example.", "AAAA") == {"2001:db8::21"}
            assert len(asked("many.example.")) == MANY
            assert asked("none.example.") == set()
            segments = mine(tap, SERVER, STUB)
            dns.take(segments)
        finally:
            tap.close()
    for address in ("198.18.2.1", "2001:db8::21"):
        assert [named.name for named in memory.names(address, 0)] == [
            *("www.example", "alias.example", "edge.cdn.example")
        ]
    assert [named.name for named in memory.names("198.18.3.60", 0)] == ["many.example"]
    assert (dict(dns.unused), dict(dns.streams.given_up), tap.lost) == ({}, {}, 0)
    assert dns.answers == 6
    askers = {segment.tgid for segment in segments if not segment.is_answer and segment.ends.protocol == 17}
    assert len(askers) == 2  # we, and the stub


@needs_resolver
def test_answers_of_systemd_resolved() -> None:
    """The name that was asked for is kept whoever asked: the stub by DNS, or resolved itself, by its socket."""
    try:
        resolved = program()
    except Unavailable as error:
        pytest.skip(str(error))
    memory = Memory()
    dns = ObservedDns(memory)
    with resolving_by_systemd(resolved) as path:
        tap = CgroupTap()
        try:
            assert asked("www.example.", server=STUB) == {"198.18.2.1"}
            assert asked_by_varlink(path, "edge.cdn.example") == ["198.18.2.1"]
            assert asked_by_varlink(path, "one.example") == ["198.18.1.1"]
            dns.take(mine(tap, SERVER, STUB))
        finally:
            tap.close()
    assert [named.name for named in memory.names("198.18.2.1", 0)] == [
        *("www.example", "alias.example", "edge.cdn.example")
    ]
    assert [named.name for named in memory.names("198.18.1.1", 0)] == ["one.example"]
    assert dict(dns.unused) == {}


@needs_resolver
@needs_netfilter
def test_nat_of_questions() -> None:
    """A connected socket's question to an address that a rule sends elsewhere is known by the address asked."""
    other = "198.18.0.54"
    memory = Memory()
    dns = ObservedDns(memory)
    with resolving(), socket.socket(type=socket.SOCK_DGRAM) as client:
        run(f"iptables -t nat -A OUTPUT -d {other} -p udp --dport 53 -j DNAT --to {SERVER}")
        tap = CgroupTap()
        try:
            client.settimeout(30)
            client.connect((other, 53))
            client.send(question("one.example."))
            client.recv(512)
            dns.take(mine(tap, other, SERVER))
        finally:
            tap.close()
    assert [named.name for named in memory.names("198.18.1.1", 0)] == ["one.example"]
    # As the server is here too, it is seen answering that.
    assert set(dns.unused) <= {"to no question that was seen"}


def test_forged_answers_are_not_used() -> None:
    """A host that guesses, and a server that answers something else, before the true answer."""
    memory = Memory()
    dns = ObservedDns(memory)
    true = answer("www.example.", "www.example. 1 A 192.0.2.1", number=4711)
    with own_netns(), socket.socket(type=socket.SOCK_DGRAM) as client:
        server, forger = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        tap = CgroupTap()
        try:
            server.bind((SERVER, 53))
            forger.bind((FORGER, 53))
            client.sendto(question("www.example.", number=4711), (SERVER, 53))
            _, asker = server.recvfrom(512)
            forger.sendto(answer("www.example.", "www.example. 1 A 192.0.2.66", number=4711), asker)
            server.sendto(answer("www.example.", "www.example. 1 A 192.0.2.66", number=4712), asker)
            server.sendto(true, asker)
            assert [client.recv(512) for _ in range(3)][2] == true
            dns.take(mine(tap, SERVER, FORGER))
        finally:
            tap.close()
            server.close()
            forger.close()
    assert memory.names("192.0.2.66", 0) == ()
    assert [named.name for named in memory.names("192.0.2.1", 0)] == ["www.example"]
    assert dns.unused == {"to no question that was seen": 2}


def test_sizes() -> None:
    """Every length of a datagram comes whole up to 4096 bytes, and longer ones say that they are cut."""
    lengths = (1, 511, 512, 513, 4095, 4096, 4097, 60000)
    with own_netns(), socket.socket(type=socket.SOCK_DGRAM) as client:
        tap = CgroupTap()
        try:
            for length in lengths:
                client.sendto(os.urandom(1) * length, ("198.18.0.98", 53))
            client.sendto(b"", ("198.18.0.98", 53))
            client.sendto(b"x", ("198.18.0.98", 54))
            found = mine(tap, "198.18.0.98")
        finally:
            tap.close()
    assert [len(segment.payload) for segment in found] == [min(length, 4096) for length in lengths]
    assert [segment.is_cut for segment in found] == [length > 4096 for length in lengths]
    assert all(segment.payload.count(segment.payload[:1]) == len(segment.payload) for segment in found)


def test_full_ring_is_counted() -> None:
    """What came faster than it was read is lost, not what is in the ring, and the sender notices nothing."""
    with own_netns(), socket.socket(type=socket.SOCK_DGRAM) as client:
        tap = CgroupTap()
        try:
            for _ in range(300):
                client.sendto(b"x" * 4096, ("198.18.0.97", 53))
            found = 0
            while some := mine(tap, "198.18.0.97"):
                found += len(some)
            assert tap.lost > 0
            assert found + tap.lost >= 300
        finally:
            tap.close()


def test_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cause is said, and nothing stays open."""
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "cgroup2_root", lambda: None)
        with pytest.raises(UnsupportedError, match=r"^no cgroup v2 is mounted$"):
            CgroupTap()
    monkeypatch.setattr(_native, "NAMES_OBJECT", tmp_path / "absent.o")
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    with pytest.raises(UnsupportedError, match=r"^ENOENT$"):
        CgroupTap()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_close_twice() -> None:
    """A closed tap can be closed again, and has lost nothing."""
    tap = CgroupTap()
    tap.close()
    tap.close()
    assert tap.lost == 0

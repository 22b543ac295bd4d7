# SPDX-License-Identifier: MIT
"""Names become addresses as everywhere on the host, and DNS is asked from ports that are known."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import pytest

from pyegress import ownports
from pyegress.loki import resolve

PATIENCE_S = 30.0


class Nameserver:
    """Knows loki.example; remembers from which ports it was asked."""

    def __init__(self) -> None:
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.ports: list[int] = []
        self.owned: list[bool] = []
        self.thread = Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            data, (where, port) = self.socket.recvfrom(4096)
            if not data:
                return
            self.ports.append(port)
            self.owned.append(ownports.is_own(port))
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            question = query.question[0]
            known = {"A": "192.0.2.7", "AAAA": "2001:db8::7"}
            if str(question.name) == "loki.example.":
                kind = dns.rdatatype.to_text(question.rdtype)
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, known[kind]))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.socket.sendto(answer.to_wire(), (where, port))


@pytest.fixture
def nameserver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Nameserver]:
    """The one that this host asks, with files that say nothing else."""
    server = Nameserver()
    made = dns.resolver.Resolver(configure=False)
    made.nameservers = ["127.0.0.1"]
    made.port = server.socket.getsockname()[1]
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: made)
    (tmp_path / "hosts").write_text(
        "127.0.0.1 localhost # not.example\n::1 localhost\nx y\n198.51.100.1 A.Example b\n"
    )
    (tmp_path / "nsswitch").write_text("passwd: files\nhosts: files [NOTFOUND=return] dns # mdns\n")
    monkeypatch.setattr(resolve, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(resolve, "SOURCES", tmp_path / "nsswitch")
    yield server
    with socket.socket(type=socket.SOCK_DGRAM) as ender:
        ender.sendto(b"", server.socket.getsockname())
    server.thread.join(PATIENCE_S)
    server.socket.close()


def test_dns_is_asked_from_a_port_of_ours(nameserver: Nameserver) -> None:
    """Known before the question is sent."""
    assert sorted(resolve.addresses("loki.example", PATIENCE_S)) == ["192.0.2.7", "2001:db8::7"]
    assert nameserver.owned == [True, True]


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("a.example", ["198.51.100.1"]),
        ("B.", ["198.51.100.1"]),
    ],
)
def test_nobody_is_asked_for_what_is_known(nameserver: Nameserver, host: str, found: list[str]) -> None:
    """Addresses, and what is in /etc/hosts."""
    assert resolve.addresses(host, PATIENCE_S) == found
    assert nameserver.ports == []


@pytest.mark.parametrize("host", ["none.example", "not.example", f"{'a' * 70}.example"])
def test_no_such_name(nameserver: Nameserver, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The C library isn't asked once more: it would ask DNS again, from ports that nobody knows."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        resolve.addresses(host, PATIENCE_S)


def test_no_answer(nameserver: Nameserver) -> None:
    """It is given up in time."""
    dns.resolver.Resolver().port = 9
    with pytest.raises(socket.gaierror, match="Temporary failure"):
        resolve.addresses("loki.example", 0.2)


def test_other_sources_are_asked(
    nameserver: Nameserver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the C library, where the host has any."""
    (tmp_path / "nsswitch").write_text("hosts: files mdns4_minimal [NOTFOUND=return] dns\n")
    asked = []

    def known(*words: object, **more: object) -> list[tuple[object, ...]]:
        asked.append(words)
        return [(0, 0, 0, "", ("192.0.2.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    assert resolve.addresses("printer.local", PATIENCE_S) == ["192.0.2.9"]
    assert resolve.addresses("loki.example", PATIENCE_S) and len(asked) == 1

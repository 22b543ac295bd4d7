# SPDX-License-Identifier: MIT
"""The namer: connections get names with source and age, and what has none is counted by why."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress import kernel
from pyegress.losses import Losses
from pyegress.names import hosts
from pyegress.names.namer import Namer
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.names.hello import tls
from tests.names.resolving import asked, needs_resolver, resolving
from tests.names.wire import SECOND_NS, answer, asks, question, tells
from tests.netns import own_netns

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Naming:
    """A namer and what it says."""

    def __init__(self, names: str, *, taps: bool = False) -> None:
        self.losses = Losses()
        self.notices: list[str] = []
        context = Context(self.losses, self.notices.append, self.notices.append)
        self.namer = Namer("ebpf", names, context, taps=taps)

    def named(self, address: str, pid: int | None = None, port: int = 443, now_ns: int = 0) -> Connection:
        """A connection to an address, with its names."""
        process = None if pid is None else Process(pid=pid)
        version = 6 if ":" in address else 4
        (found,) = self.namer.named(
            [Connection(1, "ebpf", "tcp", version, address, port, process=process)], now_ns or None
        )
        return found

    def counts(self) -> dict[str, int]:
        """Connections without names, by why."""
        self.namer.put_losses()
        counts = self.losses.snapshot().items()
        return {reason: count for (stage, reason), count in counts if stage == "unnamed"}


@contextmanager
def naming(names: str, *, taps: bool = False) -> Iterator[Naming]:
    """One that is closed."""
    made = Naming(names, taps=taps)
    try:
        yield made
    finally:
        made.namer.close()
        made.namer.close()


@needs_resolver
@pytest.mark.parametrize("place", ["cgroup", "packet socket"])
def test_what_passed_before_names_a_connection(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's tap; without one, by a packet socket, which is said."""
    if place != "cgroup":
        monkeypatch.setattr(kernel, "cgroup2_root", lambda: None)
    with resolving(), naming("dns", taps=True) as made:
        assert made.namer.place == place
        asked("www.example.")
        found = made.named("198.18.2.1")
    assert found.dest_names == ("www.example", "alias.example", "edge.cdn.example")
    assert found.dest_name_sources == ("dns", "dns", "dns")
    assert len(found.dest_name_ages) == 3
    said = "ebpf: names: only those of this network namespace are seen, by a packet socket: no cgroup v2 is mounted"
    assert made.notices == ([] if place == "cgroup" else [said])


@needs_root
def test_server_names() -> None:
    """Of TLS, for the connections that follow; without `sni` they are nobody's."""
    with (
        own_netns(),
        naming("sni", taps=True) as made,
        naming("dns", taps=True) as other,
        socket.socket() as server,
    ):
        server.bind(("198.18.5.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), 30) as client:
            client.sendall(tls("www.example"))
        found = made.named("198.18.5.1")
        assert other.named("198.18.5.1").dest_names == ()
        assert other.namer.dns.unused == {}
    assert (found.dest_names, found.dest_name_sources) == (("www.example",), ("sni",))


@needs_root
def test_default_without_a_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only /etc/hosts is read then, which is said; nothing sees each packet for it."""
    monkeypatch.setattr(kernel, "cgroup2_root", lambda: None)
    with naming("auto", taps=True) as made:
        assert made.namer.place is None
        assert made.named("127.0.0.1").dest_name_sources[:1] == ("hosts",)
        assert made.named("192.0.2.1").dest_names_missing == "dns-unseen"
    assert made.notices == [
        "ebpf: names: DNS can't be seen: no cgroup v2 is mounted; -I ebpf:names:dns tries a packet socket"
    ]


@needs_root
def test_no_tap_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on without DNS, and says why."""

    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "cgroup2_root", lambda: None)
    monkeypatch.setattr("pyegress.names.packettap.socket.socket", fail)
    with naming("dns", taps=True) as made:
        assert made.namer.place is None
        assert made.named("192.0.2.1").dest_names == ()
    assert made.notices == [
        "ebpf: names: they can't be seen passing: no cgroup v2 is mounted; packet socket: Operation not permitted"
    ]


def test_age_and_who_asked() -> None:
    """Ages are rounded down, so that repeats are alike; what a process asked for itself comes first."""
    with naming("dns") as made:
        for number, (name, tgid) in enumerate((("a.example.", 1), ("b.example.", 2))):
            ends = asks(b"").ends._replace(client_port=number)
            made.namer.take([asks(question(name), ends, tgid=tgid)])
            made.namer.take([tells(answer(name, f"{name} 60 A 192.0.2.1"), ends, number * 9 * SECOND_NS)])
        found = made.named("192.0.2.1", pid=2, now_ns=100 * SECOND_NS)
        assert found.dest_names == ("b.example", "a.example")
        assert found.dest_name_ages == (60, 60)
        assert made.named("192.0.2.1", now_ns=18 * SECOND_NS).dest_name_ages == (10, 1)
        assert made.named("192.0.2.1%eth0", now_ns=1).dest_names == ("a.example", "b.example")


def test_hosts_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an address without an answer is looked for in the file."""
    path = tmp_path / "hosts"
    path.write_text("192.0.2.1 mine\n192.0.2.2 two\n")
    monkeypatch.setattr(hosts, "HOSTS", path)
    with naming("hosts,dns") as made:
        made.namer.take(
            [asks(question("a.example.")), tells(answer("a.example.", "a.example. 60 A 192.0.2.1"))]
        )
        assert made.named("192.0.2.1", now_ns=1).dest_names == ("a.example",)
        found = made.named("192.0.2.2", now_ns=1)
    assert (found.dest_names, found.dest_name_sources, found.dest_name_ages) == (("two",), ("hosts",), (0,))


@needs_root
def test_reverse_look_ups_are_not_waited_for() -> None:
    """Where nobody answers the connection goes on without."""
    with own_netns(), naming("ptr") as made:
        before = time.monotonic()
        assert made.named("192.0.2.1").dest_names == ()
        assert time.monotonic() - before < 3


def test_why_there_is_no_name() -> None:
    """Nobody asked; or the program speaks to where DNS can't be seen. Questions themselves need none."""
    with naming("dns") as made:
        found = [
            made.named("192.0.2.1", pid=1),
            made.named("192.0.2.53", pid=1, port=53),
            made.named("1.1.1.1", pid=2),
            made.named("192.0.2.1", pid=2),
            made.named("192.0.2.9", pid=3, port=853),
        ]
        assert [one.dest_names_missing for one in found] == ["no-answer", "is-dns", *3 * ["dot-or-doh"]]
        assert made.counts() == {
            "ebpf: connections to addresses that no answer told": 1,
            "ebpf: connections of programs that may use DNS over TLS or HTTPS": 3,
        }


def test_why_there_is_no_name_yet() -> None:
    """A flow's repeat, which is made of its first record, has a name by then and no reason any more."""
    with naming("dns") as made:
        first = made.named("192.0.2.1", now_ns=1)
        assert first.dest_names_missing == "no-answer"
        made.namer.take(
            [asks(question("a.example.")), tells(answer("a.example.", "a.example. 60 A 192.0.2.1"))]
        )
        (again,) = made.namer.named([first], 2)
        assert (again.dest_names, again.dest_names_missing) == (("a.example",), None)


@pytest.mark.parametrize("names", ["hosts", "ptr", "sni"])
def test_answers_that_are_not_looked_at(names: str) -> None:
    """Then that nobody told the address would be saying too much."""
    with naming(names) as made:
        assert made.named("192.0.2.1").dest_names_missing == "dns-unseen"


def test_none() -> None:
    """Nothing is named, counted or opened."""
    with naming("none", taps=True) as made:
        batch = [Connection(1, "ebpf", "tcp", 4, "127.0.0.1", 443)]
        assert made.namer.named(batch) is batch
        assert batch[0].dest_names_missing is None
        assert (made.namer.place, made.counts()) == (None, {})

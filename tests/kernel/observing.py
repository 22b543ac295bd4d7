# SPDX-License-Identifier: MIT
"""Runs exact traffic while the ebpf input observes, and gives back what it reported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import msgspec

from pyegress.inputs.ebpf import Ebpf, EbpfOptions
from pyegress.kernel import cgroup2_root
from pyegress.losses import Losses
from pyegress.plugin import Context
from pyegress.record import Connection
from pyegress.session import Settings
from tests import traffic

BLACKHOLE = "198.51.100.7"
"""An address behind a device that swallows every packet."""
UNREACHABLE = "203.0.113.1"
"""An address without any route."""


class Observed(list[Connection]):
    """Connections of the traffic, with what else was said."""

    def __init__(self, connections: list[Connection], losses: Losses, notices: list[str]) -> None:
        super().__init__(connections)
        self.losses = losses
        self.notices = notices

    def destinations(self) -> list[tuple[str, str, int | None]]:
        """(protocol, address, port) of each, in order."""
        return [(c.protocol, c.dest_ip, c.dest_port) for c in self]

    def of(self, pid: int) -> Observed:
        """Those of one process."""
        return Observed([c for c in self if c.process and c.process.pid == pid], self.losses, self.notices)


class _Ebpf(Ebpf):
    """The input without the hooks of other protocols, where nobody sends by them: they are half of what is verified."""

    others = False

    def _make_settings(self, may_change: bool) -> Settings:
        return msgspec.structs.replace(super()._make_settings(may_change), others=self.others)


def observe(kind: str, act: Callable[[], Any], **options: Any) -> Observed:
    """All connections that the host made while `act` ran; those that are neither TCP nor UDP only by `others=True`."""
    losses = Losses()
    notices: list[str] = []
    others = options.pop("others", False)
    source = _Ebpf(EbpfOptions(attach=kind, **options))  # type: ignore[arg-type]
    source.others = others
    source.open(Context(losses=losses, notice=notices.append, debug=lambda text: None))
    try:
        act()
        source.stop()
        return Observed([c for batch in source.read() for c in batch], losses, notices)
    finally:
        source.close()


def made(kind: str, *command: str | int, **options: Any) -> tuple[Observed, dict[str, str]]:
    """Connections of one traffic command, and its own truth about them."""
    truth: dict[str, str] = {}

    def act() -> None:
        done = traffic.run(*command)
        for word in done.stdout.split():
            key, _, value = word.partition("=")
            truth[key] = value

    seen = observe(kind, act, **options)
    return seen.of(int(truth["pid"])), truth


def held(kind: str, *command: str | int, **options: Any) -> tuple[Observed, dict[str, str]]:
    """The same of a command that holds until it was observed."""
    truth: dict[str, str] = {}

    def act() -> None:
        with traffic.held(*command) as (_, words):
            truth.update(words)

    seen = observe(kind, act, **options)
    return seen.of(int(truth["pid"])), truth


def child(kind: str, *argv: str | Path, **options: Any) -> Observed:
    """Connections of a program that ends by itself."""
    pids: list[int] = []

    def act() -> None:
        process = subprocess.Popen(list(map(str, argv)))
        assert process.wait(timeout=60) == 0
        pids.append(process.pid)

    return observe(kind, act, **options).of(pids[0])


@contextmanager
def in_cgroup(path: str, root: Path | None = None) -> Iterator[Path]:
    """A cgroup, of the unified hierarchy or of that one, removed in the end."""
    root = root or cgroup2_root()
    assert root is not None
    folder = root / path
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def run_in(cgroup: Path, *argv: str) -> None:
    """Run a program that is in that cgroup from its start."""
    subprocess.run(
        ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup, *argv], check=True, timeout=60
    )


class Watch:
    """The ebpf input at work in a thread, for tests that must see a connection before they go on."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.losses = Losses()
        self.notices: list[str] = []
        self._seen: list[Connection] = []
        self._changes = Condition()
        self._source = _Ebpf(EbpfOptions(attach=kind, **options))  # type: ignore[arg-type]
        self._thread = Thread(target=self._read)

    def __enter__(self) -> Watch:
        self._source.open(Context(losses=self.losses, notice=self.notices.append, debug=lambda text: None))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._source.stop()
        self._thread.join()
        self._source.close()

    def all(self) -> Observed:
        """What was seen so far."""
        return Observed(list(self._seen), self.losses, self.notices)

    def of(self, pid: int) -> Observed:
        """What was seen of a process."""
        return self.all().of(pid)

    def wait_for(self, pid: int) -> Observed:
        """What was seen of a process, once something was."""
        with self._changes:
            assert self._changes.wait_for(lambda: self.of(pid), timeout=30), f"nothing of {pid}"
        return self.of(pid)

    def wait_until(self, wanted: Callable[[Connection], bool]) -> Connection:
        """The first connection that is wanted."""
        found: list[Connection] = []

        def look() -> bool:
            found.extend(c for c in self._seen if wanted(c))
            return bool(found)

        with self._changes:
            assert self._changes.wait_for(look, timeout=30), "not seen"
        return found[0]

    def refresh(self) -> None:
        """What SIGUSR1 does."""
        self._source.refresh_losses()

    def counters(self) -> dict[str, int]:
        """The kernel's own."""
        return self._source._opened().counters()

    def _read(self) -> None:
        for batch in self._source.read():
            with self._changes:
                self._seen += batch
                self._changes.notify_all()


def lay_routes() -> None:
    """Routes inside a guest: documentation networks to itself, one to a device that swallows everything."""
    assert os.environ["PYEGRESS_GUEST"], "only in a guest: these change the host's network"
    have_v6 = Path("/proc/net/if_inet6").exists()
    subprocess.run(["modprobe", "dummy"], check=True)
    for command in (
        "ip link set lo up",
        "ip route replace local 192.0.2.0/24 dev lo",
        "ip -6 route replace local 2001:db8::/32 dev lo" if have_v6 else "true",
        "ip link add swallow type dummy",
        "ip address add 198.51.100.1/24 dev swallow",
        "ip link set swallow up",
        f"ip neighbour replace {BLACKHOLE} lladdr 02:00:00:00:00:01 dev swallow",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)

# SPDX-License-Identifier: MIT
"""What a report tells: connections folded by the service that made them and by where they went.

Memory grows with the pairs of these, never with the number of connections or processes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from pyegress.losses import Losses
from pyegress.record import ATTRIBUTED, Connection, Process
from pyegress.rules.addresses import target_of

MAX_PAIRS = 200_000
"""So many pairs of service and destination are kept; connections of more are counted as lost."""
MAX_NAMES = 4
"""Host names of a destination, and programs and users of a service, that are kept."""
MAX_REASONS = 100
"""Different ones, of why a process isn't known and of what saw the connections; more are together."""
OTHER = "other"
NO_REASON = "the log does not tell"

_CACHED = 65536
_LATEST_NS = (1 << 63) - 1
"""The year 2262: what claims to be later has no time that is known, as in the store."""
_LOGIN = re.compile(r"session-[^/]*\.scope|user@[0-9]+\.service|init\.scope")
"""Units that tell nothing of the service in them."""

Kind = Literal["unit", "user unit", "container", "program", "kernel", "unknown"]


class Service(NamedTuple):
    """Who connects, as people name it."""

    kind: Kind
    name: str
    """Of the unit, container or program; of an unknown one the reason why it isn't known."""
    user: str | None
    """Only where services of the same name are told apart by it: units of users, programs, unknown processes."""


class Destination(NamedTuple):
    """Where it went."""

    protocol: str
    """tcp, udp, or the number as text."""
    address: str
    """With the interface where the address holds on one link only."""
    port: int | None


class Port(NamedTuple):
    """What is asked for, wherever."""

    protocol: str
    number: int | None


class Span(msgspec.Struct, gc=False):
    """Times since the epoch; 0 where none is known."""

    first_ns: int = 0
    last_ns: int = 0

    def take(self, first_ns: int, last_ns: int) -> None:
        """Widen it to another."""
        if first_ns and (not self.first_ns or first_ns < self.first_ns):
            self.first_ns = first_ns
        self.last_ns = max(self.last_ns, last_ns)


class Use(Span, gc=False):
    """How a service used a destination."""

    count: int = 0
    """Connections; of UDP datagrams."""
    denied: int = 0
    """How many of them were not let through."""
    names: tuple[str, ...] = ()
    """Host names that the address was known by, the first few."""


class About(msgspec.Struct):
    """What is known of a service."""

    uses: dict[Destination, Use] = {}
    programs: tuple[tuple[str, str | None], ...] = ()
    """Name and executable, the first few."""
    users: tuple[str, ...] = ()
    command: str | None = None
    """Arguments of the first process that had any."""

    @property
    def count(self) -> int:
        """Its connections."""
        return sum(use.count for use in self.uses.values())

    @property
    def span(self) -> Span:
        """When it was first and last seen."""
        whole = Span()
        for use in self.uses.values():
            whole.take(use.first_ns, use.last_ns)
        return whole


class PortUse(msgspec.Struct):
    """How much a port was used."""

    count: int = 0
    services: int = 0
    destinations: int = 0


class Gathered:
    """Folds connections; those beyond `limit` pairs of service and destination are counted as lost."""

    def __init__(self, losses: Losses, limit: int = MAX_PAIRS) -> None:
        self._losses = losses
        self._limit = limit
        self._pairs = 0
        # The Process is kept beside its service, so that its id can't become another's while it is a key.
        self._known: dict[tuple[object, ...], tuple[Process | None, Service]] = {}
        self.services: dict[Service, About] = {}
        self.span = Span()
        self.count = 0
        """Connections, of UDP datagrams, also those beyond the limit."""
        self.denied = 0
        self.hooks: Counter[str] = Counter()
        """Connections by what saw them."""
        self.unattributed: Counter[str] = Counter()
        """Connections whose process isn't known, or not all of it, by reason."""

    def add(self, connections: Iterable[Connection]) -> None:
        """Count connections in."""
        for connection in connections:
            if connection.direction != "out":
                self._losses.add("skipped", "report: not outbound")
                continue
            count = connection.count
            ts = connection.ts if 0 < connection.ts <= _LATEST_NS else 0
            denied = count if connection.verdict not in (None, "accept") else 0
            self.count += count
            self.denied += denied
            self.span.take(ts, ts)
            _tally(self.hooks, connection.hook, count)
            if connection.attribution is not None and connection.attribution not in ATTRIBUTED:
                _tally(self.unattributed, connection.attribution, count)
            use = self._use(connection)
            if use is None:
                why = f"report: beyond {self._limit} pairs of service and destination"
                self._losses.add("lost", why)
                continue
            use.count += count
            use.denied += denied
            use.take(ts, ts)
            if connection.dest_names:
                use.names = _with(use.names, *connection.dest_names)

    def destinations(self) -> dict[Destination, Span]:
        """All, with when they were first and last seen by anybody."""
        found: dict[Destination, Span] = {}
        for about in self.services.values():
            for destination, use in about.uses.items():
                found.setdefault(destination, Span()).take(use.first_ns, use.last_ns)
        return found

    def ports(self) -> dict[Port, PortUse]:
        """All that were asked for."""
        found: dict[Port, PortUse] = {}
        destinations: dict[Port, set[Destination]] = {}
        for about in self.services.values():
            for destination, use in about.uses.items():
                port = Port(destination.protocol, destination.port)
                found.setdefault(port, PortUse()).count += use.count
                destinations.setdefault(port, set()).add(destination)
            for port in {Port(each.protocol, each.port) for each in about.uses}:
                found[port].services += 1
        for port, those in destinations.items():
            found[port].destinations = len(those)
        return found

    def _use(self, connection: Connection) -> Use | None:
        """Where it is counted; None where there is no more room."""
        service = self._service(connection)
        destination = Destination(
            connection.protocol, _address(connection.dest_ip, connection.ifname), connection.dest_port
        )
        about = self.services.get(service)
        use = None if about is None else about.uses.get(destination)
        if use is None:
            if self._pairs >= self._limit:
                return None
            self._pairs += 1
            about = self.services.setdefault(service, About())
            use = about.uses[destination] = Use()
            _describe(about, connection.process)
        return use

    def _service(self, connection: Connection) -> Service:
        process = connection.process
        key = (id(process), connection.attribution, connection.socket_uid)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = self._known[key] = process, service_of(connection)
            about = self.services.get(found[1])
            if about is not None:
                _describe(about, process)
        return found[1]


def service_of(connection: Connection) -> Service:
    """Whose it was: the container, else the unit unless it is a login's, else the program and its user."""
    process = connection.process
    if process is None:
        uid = connection.socket_uid
        return Service("unknown", _reason(connection), None if uid is None else f"uid {uid}")
    container = process.container_name or process.container
    if container:
        return Service("container", container, None)
    if process.user_unit:
        return Service("user unit", process.user_unit, process.user)
    if process.unit and not _LOGIN.fullmatch(process.unit):
        return Service("unit", process.unit, None)
    name = process.exe or process.name or process.comm
    if process.kernel and name:
        return Service("kernel", name, None)
    return (
        Service("program", name, process.user)
        if name
        else Service("unknown", _reason(connection), process.user)
    )


def _reason(connection: Connection) -> str:
    attribution = connection.attribution
    return NO_REASON if attribution is None or attribution in ATTRIBUTED else attribution


def _describe(about: About, process: Process | None) -> None:
    if process is None:
        return
    name = process.name or process.comm
    program = (name or process.exe or "", process.exe)
    if program[0] and program not in about.programs and len(about.programs) < MAX_NAMES:
        about.programs = (*about.programs, program)
    if process.user:
        about.users = _with(about.users, process.user)
    if about.command is None:
        about.command = process.cmdline or None


def _with(names: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """The first few of both."""
    if len(names) >= MAX_NAMES or all(name in names for name in more):
        return names
    return tuple(dict.fromkeys((*names, *more)))[:MAX_NAMES]


def _tally(counter: Counter[str], what: str, count: int) -> None:
    """Count by what a log says, of which an attacker's has no end."""
    counter[what if what in counter or len(counter) < MAX_REASONS else OTHER] += count


@lru_cache(_CACHED)
def _address(text: str, ifname: str | None) -> str:
    """One text for one address, however a log has it."""
    target = target_of(text)
    if target is None:
        return text
    zone = (ifname or target.zone) if target.network.is_link_local else None
    return f"{target.network}%{zone}" if zone else str(target.network)

# SPDX-License-Identifier: MIT
"""What was gathered as the rows of a page: text that is ready to be shown, and of everything the first few."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.redact import mask
from pyegress.report.model import About, Destination, Gathered, Port, PortUse, Service, Use
from pyegress.times import duration_text, rfc3339

T = TypeVar("T")

Ports = Sequence[tuple[Port, PortUse]]

TEXT_CHARS = 120
COMMAND_CHARS = 400
NOT_KNOWN = "not known"
GONE = ("lost", "failed", "unreadable")
"""Stages of losses after which a page isn't whole."""

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_KINDS = {
    "unit": "systemd unit",
    "user unit": "unit of a user",
    "container": "container",
    "program": "program",
    "kernel": "kernel",
    "unknown": "unknown process",
}
_STAGES = {
    "lost": "seen, and then lost",
    "failed": "failed",
    "unreadable": "could not be read",
    "unattributed": "process not known",
    "unnamed": "host name not known",
    "skipped": "left out by choice",
}


class Some(Struct, Generic[T], frozen=True):
    """The first rows of a table."""

    rows: Sequence[T]
    more: int
    """How many there are besides."""


class When(NamedTuple):
    """First and last time, as text."""

    first: str
    last: str


class DestinationRow(NamedTuple):
    where: str
    protocol: str
    port: str
    names: str
    connections: int
    denied: int
    when: When


class ServiceRow(NamedTuple):
    anchor: str
    """Of its section; none is made of its name."""
    kind: str
    name: str
    user: str
    connections: int
    destinations: int
    denied: int
    ports: str
    when: When
    programs: Sequence[str]
    users: str
    command: str
    used: Some[DestinationRow]


class NewRow(NamedTuple):
    when: str
    where: str
    protocol: str
    port: str
    names: str
    services: str


class PortRow(NamedTuple):
    protocol: str
    port: str
    connections: int
    services: int
    destinations: int


class LossRow(NamedTuple):
    stage: str
    reason: str
    amount: int


class Totals(NamedTuple):
    """What was observed."""

    since: str
    until: str
    span: str
    connections: int
    denied: int
    services: int
    destinations: int
    addresses: int
    ports: int
    last_new: str
    quiet: str
    """How long before the end that was; empty where no time is known."""
    hooks: str


class Tables(NamedTuple):
    """Everything on the page but its pictures."""

    totals: Totals
    logs: Some[str]
    newest: Some[NewRow]
    services: Some[ServiceRow]
    ports: Some[PortRow]
    unattributed: Some[LossRow]
    losses: Some[LossRow]
    is_whole: bool
    """Nothing is known to be missing."""


def tables(
    gathered: Gathered, ports: Ports, losses: Losses, logs: Sequence[str], most: int, redact: bool
) -> Tables:
    """At most `most` rows in each table; `ports` are ranked."""
    destinations = gathered.destinations()
    newest = sorted(
        ((span.first_ns, where) for where, span in destinations.items() if span.first_ns),
        key=lambda each: (-each[0], _sortable(each[1])),
    )
    ranked = ranked_services(gathered)
    counters = losses.snapshot()
    span = gathered.span
    last_new = newest[0][0] if newest else 0
    return Tables(
        totals=Totals(
            since=moment(span.first_ns),
            until=moment(span.last_ns),
            span=duration_text(span.last_ns - span.first_ns) if span.first_ns else "",
            connections=gathered.count,
            denied=gathered.denied,
            services=len(gathered.services),
            destinations=len(destinations),
            addresses=len({where.address for where in destinations}),
            ports=len(ports),
            last_new=moment(last_new),
            quiet=duration_text(span.last_ns - last_new) if last_new else "",
            hooks=", ".join(shown(hook) for hook, _ in gathered.hooks.most_common(8)),
        ),
        logs=_some([shown(log) for log in logs[:most]], len(logs)),
        newest=_some(
            [_new_row(gathered, ranked, first_ns, where) for first_ns, where in newest[:most]], len(newest)
        ),
        services=_some(
            [
                _service_row(place, service, about, most, redact)
                for place, (service, about) in enumerate(ranked[:most])
            ],
            len(ranked),
        ),
        ports=_some(
            [
                PortRow(shown(port.protocol), port_text(port), use.count, use.services, use.destinations)
                for port, use in ports[:most]
            ],
            len(ports),
        ),
        unattributed=_some(
            [LossRow("", shown(reason), count) for reason, count in gathered.unattributed.most_common(most)],
            len(gathered.unattributed),
        ),
        losses=_some(
            [
                LossRow(_STAGES.get(stage, shown(stage)), shown(reason), count)
                for (stage, reason), count in sorted(counters.items(), key=_by_gravity)[:most]
            ],
            len(counters),
        ),
        is_whole=not any(stage in GONE for stage, _ in counters),
    )


def ranked_services(gathered: Gathered) -> list[tuple[Service, About]]:
    """All, those with the most connections first."""
    return sorted(
        gathered.services.items(), key=lambda each: (-each[1].count, each[0][:2], each[0].user or "")
    )


def ranked_ports(gathered: Gathered) -> Ports:
    """All, those with the most connections first."""
    return sorted(
        gathered.ports().items(), key=lambda each: (-each[1].count, each[0].protocol, each[0].number or 0)
    )


def shown(text: str, most: int = TEXT_CHARS) -> str:
    """Text that somebody else chose: inert as text, and cut where it is too long to be read."""
    return cut(display(text[: most + 1]), most)


def cut(safe: str, most: int) -> str:
    """The beginning of text that is too long."""
    return safe if len(safe) <= most else safe[: most - 1] + "…"


def service_text(service: Service) -> str:
    """Its name."""
    if service.kind == "unknown":
        return f"unknown process: {shown(service.name)}"
    if service.kind == "container" and _CONTAINER_ID.fullmatch(service.name):
        return service.name[:12]
    return shown(service.name)


def port_text(port: Port) -> str:
    """`443 https`; the name is this host's."""
    if port.number is None:
        return "-"
    name = _port_name(port)
    return f"{port.number} {name}" if name else str(port.number)


def where_text(where: Destination) -> str:
    """`192.0.2.1:443/tcp`, `[2001:db8::1]:443/tcp`."""
    address, protocol = shown(where.address), shown(where.protocol)
    if where.port is None:
        return f"{address} protocol {protocol}"
    return f"{f'[{address}]' if ':' in address else address}:{where.port}/{protocol}"


def moment(ns: int) -> str:
    """`2026-11-26 03:17:17`, UTC."""
    return rfc3339(ns).replace("T", " ").removesuffix("Z") if ns else NOT_KNOWN


@lru_cache(4096)
def _port_name(port: Port) -> str:
    try:
        return shown(socket.getservbyport(port.number or 0, port.protocol))
    except (OSError, OverflowError, ValueError):
        return ""


def _service_row(place: int, service: Service, about: About, most: int, redact: bool) -> ServiceRow:
    uses = sorted(about.uses.items(), key=lambda each: (-each[1].count, _sortable(each[0])))
    span = about.span
    ports = {Port(where.protocol, where.port): None for where, _ in uses}
    command = (mask(about.command) if redact else about.command) if about.command else ""
    return ServiceRow(
        anchor=f"service-{place + 1}",
        kind=_KINDS[service.kind],
        name=shown(service.name) if service.kind == "unknown" else service_text(service),
        user=shown(service.user) if service.user else "",
        connections=about.count,
        destinations=len(uses),
        denied=sum(use.denied for _, use in uses),
        ports=_listed((_short_port(port) for port in ports), 3),
        when=When(moment(span.first_ns), moment(span.last_ns)),
        programs=[_program_text(*program) for program in about.programs],
        users=", ".join(map(shown, about.users)),
        command=shown(command, COMMAND_CHARS),
        used=_some([_destination_row(where, use) for where, use in uses[:most]], len(uses)),
    )


def _destination_row(where: Destination, use: Use) -> DestinationRow:
    return DestinationRow(
        where=shown(where.address),
        protocol=shown(where.protocol),
        port=port_text(Port(where.protocol, where.port)),
        names=", ".join(map(shown, use.names)),
        connections=use.count,
        denied=use.denied,
        when=When(moment(use.first_ns), moment(use.last_ns)),
    )


def _new_row(
    gathered: Gathered, ranked: Sequence[tuple[Service, About]], first_ns: int, where: Destination
) -> NewRow:
    by = [(service, about.uses[where]) for service, about in ranked if where in about.uses]
    names = dict.fromkeys(name for _, use in by for name in use.names)
    return NewRow(
        when=moment(first_ns),
        where=shown(where.address),
        protocol=shown(where.protocol),
        port=port_text(Port(where.protocol, where.port)),
        names=_listed(map(shown, names), 4),
        services=_listed((service_text(service) for service, _ in by), 3),
    )


def _program_text(name: str, exe: str | None) -> str:
    return f"{shown(name)} ({shown(exe)})" if exe and exe != name else shown(name)


def _short_port(port: Port) -> str:
    return shown(port.protocol) if port.number is None else f"{port.number}/{shown(port.protocol)}"


def _listed(texts: Iterable[str], most: int) -> str:
    known = list(texts)
    more = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def _sortable(where: Destination) -> tuple[str, str, int]:
    return where.address, where.protocol, where.port or 0


def _by_gravity(counter: tuple[tuple[str, str], int]) -> tuple[int, str, int, str]:
    (stage, reason), count = counter
    stages = list(_STAGES)
    return stages.index(stage) if stage in stages else len(stages), stage, -count, reason


def _some(rows: Sequence[T], count: int) -> Some[T]:
    return Some(rows, count - len(rows))

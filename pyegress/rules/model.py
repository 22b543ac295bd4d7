# SPDX-License-Identifier: MIT
"""What was observed, folded by destination and by whose it was, whatever firewall it is written for.

Memory grows with the destinations and with who connects to them, never with the number of connections or processes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from pyegress.losses import Losses
from pyegress.record import ATTRIBUTED, PACKET_PREFIX, Connection, Process, Repeats
from pyegress.rules.addresses import Network, target_of
from pyegress.rules.hostnames import rule_name

MAX_SOURCES = 200_000
"""So many pairs of destination and owner are kept; more are counted as lost."""
MAX_PROGRAMS = 8
"""Programs named for one destination of one owner; more are counted."""
MAX_NAMES = 4
PORTED = ("tcp", "udp")
PASSES_BY = "sent by AF_PACKET, which no rule for OUTPUT sees"
_CACHED = 65536
_OWNERS = 8192
_INCOMPLETE = ("failed", "lost", "unreadable")
_NO_UID = (1 << 32) - 1
"""The kernel's name for none; no rule can hold it."""
_CGROUP_V1 = 1 << 62
"""From here on `cgroup_id` is of v1, which has other paths."""

_PROTOCOL = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
IFNAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]{0,14}")
"""Names that mean themselves in every rule syntax and shell: no `+` or `*`, which are wildcards there."""
_WRITABLE_PATH = re.compile(r"[ #%-_a-~]{1,255}")
"""nft's strings have no way to write a double quote, and what a shell reads inside of them can't be written inert."""
_LOGIN = re.compile(r"session-[^/]*\.scope|user@[0-9]+\.service")
_USER_SLICE = re.compile(r"user-[0-9]+\.slice")


class Destination(NamedTuple):
    """Where it went, in the order of rules."""

    family: int
    protocol: str
    """tcp, udp, or the number as text, never 0."""
    address: Network
    port: int | None
    """None for protocols without ports."""
    ifname: str | None
    """Only for link-local destinations."""
    name: str | None = None
    """That it was asked for by, where rules are made from names."""


class Owner(NamedTuple):
    """Whose connections a rule can tell apart."""

    uid: int | None
    """The socket's owner."""
    user: str | None
    unit: str | None
    """Path of the unit's cgroup without the leading slash: `system.slice/ssh.service`."""


NOBODY_KNOWN = Owner(None, None, None)


class Program(NamedTuple):
    """What is told of a process; another run of the same program is the same."""

    name: str | None
    exe: str | None
    user: str | None
    unit: str | None
    container: str | None
    parent: str | None
    """Name of the parent."""


UNKNOWN = Program(None, None, None, None, None, None)


class Seen(msgspec.Struct, gc=False):
    """How often and by what something was used."""

    hook: str
    process: Process | None
    """The first known one."""
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    """Since the epoch; 0 where no time is known."""
    programs: dict[Program, int] = msgspec.field(default_factory=dict)
    """With their connections, the first MAX_PROGRAMS."""
    more: int = 0
    """Connections of other programs."""
    names: tuple[str, ...] = ()
    """Host names that the address was known by, the first MAX_NAMES."""

    def add(self, other: Seen) -> None:
        """Take what is known of another into this one."""
        if self.process is None or (self.process.pid is None and other.process is not None):
            self.hook, self.process = other.hook, other.process
        self.count += other.count
        if other.first_ns and (other.first_ns < self.first_ns or not self.first_ns):
            self.first_ns = other.first_ns
        if other.last_ns > self.last_ns:
            self.last_ns = other.last_ns
        self.more += other.more
        for program, count in other.programs.items():
            self._add_program(program, count)
        if other.names:
            self.names = tuple(dict.fromkeys(self.names + other.names))[:MAX_NAMES]

    def _add_program(self, program: Program, count: int) -> None:
        if program in self.programs or len(self.programs) < MAX_PROGRAMS:
            self.programs[program] = self.programs.get(program, 0) + count
        else:
            self.more += count


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """How much the rules rest on."""

    since_ns: int
    """Start of the observation, since the epoch; 0 where no time is known."""
    until_ns: int
    connections: int
    destinations: int
    last_new_ns: int
    """When a destination was first seen that had not been seen before."""
    losses: tuple[tuple[str, int], ...]
    """What was lost, by reason, with counts: the rules may be incomplete."""
    unattributed: tuple[tuple[str, int], ...]
    """Connections whose process is not known, by reason."""
    passing_by: int = 0
    """Records of AF_PACKET, which no rule can be made for."""
    from_logs: bool = False
    """Read from logs, which don't tell what the audit lost."""


class Observations:
    """Gathers connections by destination and owner, at most `limit` such pairs."""

    def __init__(
        self,
        name: str,
        losses: Losses,
        limit: int = MAX_SOURCES,
        live: bool = True,
        keeps_losses: bool = False,
        by_name: bool = False,
    ) -> None:
        """`name` is what the losses are named after; `live`: observation begins now and lasts until it is asked for.

        `keeps_losses`: what is not live tells what the audits lost, which is in `losses` once all is read.
        `by_name`: what has different names is different.
        """
        self._name = name
        self._by_name = by_name
        self._losses = losses
        self._limit = limit
        self._live = live
        self._tells_losses = live or keeps_losses
        self._since_ns = time.time_ns() if live else 0
        self._connections = 0
        self._sources = 0
        self._unattributed: dict[str, int] = {}
        self._seen: dict[Destination, dict[Owner, Seen]] = {}
        self._known: dict[tuple[object, ...], _Place] = {}
        self._last: tuple[object, Destination | str] = None, ""
        # The process stands in the value, so that its id can't become another's while it is a key.
        self._owners: dict[tuple[object, ...], tuple[Process | None, Owner, Program]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[tuple[Destination, Owner, Seen]]:
        """All, in no particular order."""
        for destination, owners in self.by_destination():
            for owner, seen in owners.items():
                yield destination, owner, seen

    def by_destination(self) -> Iterable[tuple[Destination, Mapping[Owner, Seen]]]:
        """All of each destination."""
        self._settle()
        return self._seen.items()

    def add(self, connections: Iterable[Connection]) -> None:
        """Count connections in; those that no rule can match are counted as skipped."""
        known = self._known
        for connection in connections:
            process = connection.process
            key = (
                connection.dest_ip,
                connection.dest_port,
                connection.protocol,
                id(process),
                connection.socket_uid,
                connection.ifname,
                connection.attribution,
                connection.direction,
                connection.verdict,
                connection.kernel_socket,
                connection.dest_names,
            )
            place = known.get(key)
            if place is None:
                if len(known) >= _CACHED:
                    self._settle()
                    known.clear()
                place = known[key] = self._place(connection)
            if place.loss is not None:
                self._losses.add(*place.loss)
            place.records += 1
            place.count += connection.count
            ts = connection.ts
            if ts:
                if ts > place.last_ns:
                    place.last_ns = ts
                if ts < place.first_ns or not place.first_ns:
                    place.first_ns = ts

    def add_repeats(self, several: Iterable[Repeats]) -> None:
        """Count connections in that are one already where they repeat."""
        for repeats in several:
            place = self._place(repeats.connection)
            if place.loss is not None:
                self._losses.add(*place.loss, repeats.records)
            place.records, place.count = repeats.records, repeats.count
            place.first_ns, place.last_ns = repeats.first_ns, repeats.last_ns
            self._bring(place)

    def _settle(self) -> None:
        """Bring what was counted since the last time to where it belongs."""
        for place in self._known.values():
            if place.records:
                self._bring(place)
                place.records = place.count = place.first_ns = place.last_ns = 0

    def _bring(self, place: _Place) -> None:
        if place.unknown is not None:
            self._unattributed[place.unknown] = self._unattributed.get(place.unknown, 0) + place.records
        seen = place.seen
        if seen is None:
            return
        self._connections += place.records
        seen.count += place.count
        if place.program is None:
            seen.more += place.count
        else:
            seen.programs[place.program] += place.count
        if place.first_ns and (place.first_ns < seen.first_ns or not seen.first_ns):
            seen.first_ns = place.first_ns
        if place.last_ns > seen.last_ns:
            seen.last_ns = place.last_ns

    def evidence(self) -> Evidence:
        """How much was seen until now."""
        self._settle()
        first = [
            min((s.first_ns for s in owners.values() if s.first_ns), default=0)
            for owners in self._seen.values()
        ]
        last = max((seen.last_ns for _, _, seen in self), default=0)
        lost = [
            (reason if stage == "lost" else f"{stage}: {reason}", count)
            for (stage, reason), count in self._losses.snapshot().items()
            if stage in _INCOMPLETE
        ]
        return Evidence(
            since_ns=self._since_ns if self._live else min(filter(None, first), default=0),
            until_ns=time.time_ns() if self._live else last,
            connections=self._connections,
            destinations=len(self._seen),
            last_new_ns=max(first, default=0),
            losses=tuple(lost),
            unattributed=tuple(sorted(self._unattributed.items())),
            passing_by=self._losses.snapshot().get(("skipped", f"{self._name}: {PASSES_BY}"), 0),
            from_logs=not self._tells_losses,
        )

    def _place(self, connection: Connection) -> _Place:
        """Where a connection is counted, or why nowhere."""
        process = connection.process
        if connection.direction != "out":
            return _Place(process)
        attribution = connection.attribution
        unknown = None if attribution in ATTRIBUTED else attribution
        destination = self._destination(connection)
        if isinstance(destination, str):
            return _Place(process, loss=("skipped", f"{self._name}: {destination}"), unknown=unknown)
        owners = self._seen.get(destination)
        if owners is None:
            owners = self._seen[destination] = {}
        _, owner, program = self._who(connection)
        seen = owners.get(owner)
        if seen is None:
            if self._sources >= self._limit:
                if not owners:
                    del self._seen[destination]
                return _Place(process, loss=("lost", f"{self._name}: rules beyond limit"), unknown=unknown)
            self._sources += 1
            seen = owners[owner] = Seen(hook=connection.hook, process=process)
        if seen.process is None or (seen.process.pid is None and process is not None):
            seen.hook, seen.process = connection.hook, process
        if connection.dest_names:
            seen.names = tuple(dict.fromkeys(seen.names + connection.dest_names))[:MAX_NAMES]
        if program not in seen.programs:
            if len(seen.programs) >= MAX_PROGRAMS:
                return _Place(process, seen=seen, unknown=unknown)
            seen.programs[program] = 0
        return _Place(process, seen=seen, program=program, unknown=unknown)

    def _destination(self, connection: Connection) -> Destination | str:
        """What is gathered from a log comes by destination."""
        address = connection.dest_ip, connection.dest_port, connection.protocol
        name = rule_name(connection) if self._by_name else None
        where = *address, connection.ifname, connection.verdict, name
        if where != self._last[0]:
            destination = destination_of(connection)
            # A set of addresses has no room for the interface.
            if (
                name is not None
                and not isinstance(destination, str)
                and not destination.address.is_link_local
            ):
                destination = destination._replace(name=name)
            self._last = where, destination
        return self._last[1]

    def _who(self, connection: Connection) -> tuple[Process | None, Owner, Program]:
        process = connection.process
        key = id(process), connection.socket_uid, connection.kernel_socket
        found = self._owners.get(key)
        if found is None:
            if len(self._owners) >= _OWNERS:
                self._owners.clear()
            found = self._owners[key] = process, owner_of(connection), program_of(process)
        return found


class _Place(msgspec.Struct, gc=False):
    """Where equal connections are counted, and how many since that was last settled."""

    process: Process | None
    """Kept, so that its id can't become another's while it is a key."""
    seen: Seen | None = None
    program: Program | None = None
    """None: counted as one more."""
    loss: tuple[str, str] | None = None
    unknown: str | None = None
    """Why the process is not known."""
    records: int = 0
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0


def destination_of(connection: Connection) -> Destination | str:
    """Where it went, or why no rule can match that."""
    if connection.verdict not in (None, "accept"):
        return "not let through"
    target = target_of(connection.dest_ip)
    if target is None:
        return "no address that packets are sent to"
    protocol, port = connection.protocol, connection.dest_port
    if protocol.startswith(PACKET_PREFIX):
        return PASSES_BY
    if protocol in ("6", "17"):
        return "TCP or UDP by number, without ports"
    if protocol in PORTED:
        if not port or not 0 < port < 65536:
            return "no destination port"
    else:
        # Protocol 0 would mean every protocol.
        if not _PROTOCOL.fullmatch(protocol) or int(protocol) > 255:
            return "a protocol that no rule can name"
        port = None
    ifname = None
    if target.network.is_link_local:
        ifname = connection.ifname or target.zone
        if ifname is not None and not IFNAME.fullmatch(ifname):
            return "an interface name that no rule can hold"
    return Destination(target.network.family, protocol, target.network, port, ifname)


def uid_of(connection: Connection) -> int | None:
    """The socket's owner; the process' user stands in where that isn't known."""
    process, uid = connection.process, connection.socket_uid
    if uid is None and process is not None and not connection.kernel_socket:
        uid = process.uid
    return uid if uid is not None and 0 <= uid < _NO_UID else None


def owner_of(connection: Connection) -> Owner:
    """What a firewall can tell its owner by."""
    process, uid = connection.process, uid_of(connection)
    if process is None:
        return Owner(uid, None, None) if uid is not None else NOBODY_KNOWN
    return Owner(uid, process.user if uid is not None and uid == process.uid else None, unit_path(process))


@lru_cache(_CACHED)
def _unit_path(cgroup: str, unit: str) -> str | None:
    """The cgroup's path as far as the unit; of logins the user's slice, which is there after the next one too."""
    parts = cgroup.strip("/").split("/")
    if unit not in parts:
        return None
    at = parts.index(unit)
    if at and _LOGIN.fullmatch(unit) and _USER_SLICE.fullmatch(parts[at - 1]):
        at -= 1
    path = "/".join(parts[: at + 1])
    return path if _WRITABLE_PATH.fullmatch(path) else None


def cgroup_of(process: Process) -> str | None:
    """Path of its cgroup v2; None where it isn't known."""
    return None if process.cgroup_id is None or process.cgroup_id >= _CGROUP_V1 else process.cgroup


def unit_path(process: Process) -> str | None:
    """Path of its unit's cgroup v2; None where it has none, or one that no rule can hold."""
    cgroup = cgroup_of(process)
    return None if cgroup is None or process.unit is None else _unit_path(cgroup, process.unit)


def program_of(process: Process | None) -> Program:
    """What is told of it; everything None where it isn't known."""
    if process is None:
        return UNKNOWN
    parent = process.parent
    return Program(
        process.name or process.comm,
        process.exe,
        process.user,
        process.user_unit or process.unit,
        process.container_name or process.container,
        None if parent is None else parent.name or parent.comm,
    )

# SPDX-License-Identifier: MIT
"""Whether rules let through what was observed: each connection is asked of them, whatever their firewall.

Memory grows with what is told (and is bounded), never with the number of connections.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from pyegress.plugin import Batch
from pyegress.record import Connection, Process
from pyegress.rules.addresses import BITS, Network
from pyegress.rules.firewall import Entry, Firewall, Range
from pyegress.rules.matcher import (
    LOOPBACK,
    Decision,
    Matcher,
    Packet,
    device_of,
    lets_through,
)
from pyegress.rules.model import PORTED, Program, cgroup_of, destination_of, program_of, uid_of

MAX_TOLD = 10_000
"""Distinct packets of one kind that are kept; more are only counted."""
_CACHED = 200_000
_PROCESSES = 16_384
_PROTOCOLS = {"tcp": 6, "udp": 17}
_LOOPBACK = Network(4, 127 << 24, 8), Network(6, 1, 128)

Family = Literal[4, 6]


class Judgement(NamedTuple):
    """What all chains together do with a packet."""

    passes: bool
    decisions: tuple[tuple[int, Decision], ...]
    """Of each chain that was asked, by its place; the last one drops it if it doesn't pass."""


class Told(msgspec.Struct, gc=False):
    """A packet that there is something to tell of."""

    packet: Packet
    program: Program
    """The first that sent one."""
    entry: Entry | None
    """What decided; None: the policy."""
    surely: bool
    count: int = 0


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What rules would have done with what was observed."""

    observed: int
    """Connections that the rules were asked about."""
    dropped: int
    drops: tuple[Told, ...]
    """Those that would be or may be dropped, the most frequent first, at most MAX_TOLD."""
    by_policy: int
    """Connections that no rule is for, and that only a policy lets through."""
    unruled: tuple[Told, ...]
    """Those, as `drops`."""
    unused: tuple[Entry, ...]
    """Rules that let first packets through, and that none needed."""
    rules: int
    """How many rules let first packets through."""
    not_understood: tuple[Entry, ...]
    """Rules that ask for what isn't understood: they are taken to let nothing through, and to drop."""
    not_judged: tuple[tuple[Family, int], ...]
    """Connections of a family that none of the rules are for."""
    left_out: tuple[tuple[str, int], ...]
    """Connections that don't count, by reason."""


class Judge:
    """Asks several chains about packets: all of them must accept."""

    def __init__(self, firewalls: Sequence[Firewall]) -> None:
        self._matchers = {
            family: [
                (place, Matcher(firewall))
                for place, firewall in enumerate(firewalls)
                if family in firewall.families
            ]
            for family in (4, 6)
        }

    def covers(self, family: int) -> bool:
        """Whether any of the rules are for that family."""
        return bool(self._matchers[family])

    def judge(self, packet: Packet) -> Judgement:
        """Until one drops it."""
        decisions: list[tuple[int, Decision]] = []
        for place, matcher in self._matchers[packet.family]:
            decision = matcher.decide(packet)
            decisions.append((place, decision))
            if not decision.accepts:
                return Judgement(False, tuple(decisions))
        return Judgement(True, tuple(decisions))


class _Classes:
    """Numbers that no range tells apart become one, so that there are few of them."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._starts = sorted({0} | {edge for first, last in ranges for edge in (first, last + 1)})

    def of(self, number: int | None) -> int | None:
        return None if number is None else self._starts[bisect_right(self._starts, number) - 1]


class _Place(msgspec.Struct, gc=False):
    """Where equal connections are counted."""

    reason: str | None = None
    """Why they don't count."""
    not_judged: Family | None = None
    told: Told | None = None
    dropped: bool = False
    by_policy: bool = False


def verify(firewalls: Sequence[Firewall], connections: Iterable[Batch]) -> Proof:
    """Ask the rules about every connection."""
    proving = _Proving(firewalls)
    for batch in connections:
        proving.add(batch)
    return proving.proof()


class _Proving:
    def __init__(self, firewalls: Sequence[Firewall]) -> None:
        entries = [entry for firewall in firewalls for entry in firewall.entries]
        self._firewalls = firewalls
        self._judge = Judge(firewalls)
        self._uids = _Classes(each for entry in entries for each in entry.uids or ())
        self._sports = _Classes(each for entry in entries for each in entry.sports or ())
        self._cgroups = {entry.cgroup for entry in entries if entry.cgroup is not None}
        self._devices = {device_of(entry) for entry in entries} - {None}
        self._used: set[tuple[int, int]] = set()
        self._observed = self._dropped = self._by_policy = 0
        self._drops: dict[Packet, Told] = {}
        self._unruled: dict[Packet, Told] = {}
        self._not_judged: dict[Family, int] = {}
        self._left_out: dict[str, int] = {}
        self._places: dict[tuple[object, ...], _Place] = {}
        # The process stands in the value, so that its id can't become another's while it is a key.
        self._known: dict[int, tuple[Process, str | None]] = {}

    def add(self, batch: Batch) -> None:
        places = self._places
        for connection in batch:
            process = connection.process
            cgroup = None if process is None else self._cgroup(process)
            uid, sport = self._uids.of(uid_of(connection)), self._sports.of(connection.src_port)
            key = (
                connection.dest_ip,
                connection.dest_port,
                connection.protocol,
                connection.ifname,
                connection.direction,
                connection.verdict,
                uid,
                cgroup,
                sport,
            )
            place = places.get(key)
            if place is None:
                if len(places) >= _CACHED:
                    places.clear()
                place = places[key] = self._place(connection, uid, cgroup, sport)
            if place.reason is not None:
                self._left_out[place.reason] = self._left_out.get(place.reason, 0) + 1
            elif place.not_judged is not None:
                self._not_judged[place.not_judged] = self._not_judged.get(place.not_judged, 0) + 1
            else:
                self._observed += 1
                self._dropped += place.dropped
                self._by_policy += place.by_policy
                if place.told is not None:
                    place.told.count += 1

    def proof(self) -> Proof:
        entries = [
            ((at, place), entry)
            for at, firewall in enumerate(self._firewalls)
            for place, entry in enumerate(firewall.entries)
        ]
        # The audit doesn't show what goes over lo unless it is asked to.
        rules = [(at, entry) for at, entry in entries if lets_through(entry) and device_of(entry) != LOOPBACK]
        return Proof(
            observed=self._observed,
            dropped=self._dropped,
            drops=_by_count(self._drops),
            by_policy=self._by_policy,
            unruled=_by_count(self._unruled),
            unused=tuple(entry for at, entry in rules if at not in self._used),
            rules=len(rules),
            not_understood=tuple(
                entry
                for _, entry in entries
                if entry.unknown and not entry.established and entry.verdict != "continue"
            ),
            not_judged=tuple(sorted(self._not_judged.items())),
            left_out=tuple(sorted(self._left_out.items())),
        )

    def _cgroup(self, process: Process) -> str | None:
        """The innermost of the cgroups that rules ask for which it is in, or the root; None where it isn't known."""
        found = self._known.get(id(process))
        if found is None:
            if len(self._known) >= _PROCESSES:
                self._known.clear()
            cgroup = cgroup_of(process)
            if cgroup is not None:
                cgroup = cgroup.strip("/")
                while cgroup and cgroup not in self._cgroups:
                    cgroup = cgroup.rpartition("/")[0]
            found = self._known[id(process)] = process, cgroup
        return found[1]

    def _place(
        self, connection: Connection, uid: int | None, cgroup: str | None, sport: int | None
    ) -> _Place:
        if connection.direction != "out":
            return _Place("not outbound")
        destination = destination_of(connection)
        if isinstance(destination, str):
            return _Place(destination)
        family: Family = 4 if destination.family == 4 else 6
        if not self._judge.covers(family):
            return _Place(not_judged=family)
        number = destination.address.first
        device = connection.ifname or destination.ifname
        if device is None and any(_is_in(number, family, network) for network in _LOOPBACK):
            device = LOOPBACK
        packet = Packet(
            family=family,
            protocol=_PROTOCOLS.get(destination.protocol) or int(destination.protocol),
            address=number,
            dport=destination.port,
            # Which of the devices that no rule asks for makes no difference.
            oifname=device if device is None or device in self._devices else "",
            uid=uid,
            cgroup=cgroup,
            sport=sport if destination.protocol in PORTED else None,
        )
        return self._judged(packet, connection)

    def _judged(self, packet: Packet, connection: Connection) -> _Place:
        passes, decisions = self._judge.judge(packet)
        used = {(place, each.entry) for place, each in decisions if each.accepts and each.entry is not None}
        self._used |= used
        at, last = decisions[-1]
        if not passes:
            entry = None if last.entry is None else self._firewalls[at].entries[last.entry]
            told = _kept(self._drops, Told(packet, program_of(connection.process), entry, last.surely))
            return _Place(told=told, dropped=True)
        if used:
            return _Place()
        told = _kept(self._unruled, Told(packet, program_of(connection.process), None, True))
        return _Place(told=told, by_policy=True)


def _kept(kept: dict[Packet, Told], told: Told) -> Told | None:
    """The one that equal packets are counted at; None where there is no room for another."""
    found = kept.get(told.packet)
    if found is None and len(kept) < MAX_TOLD:
        found = kept[told.packet] = told
    return found


def _by_count(told: dict[Packet, Told]) -> tuple[Told, ...]:
    return tuple(
        sorted(told.values(), key=lambda each: (-each.count, each.packet[:3], each.packet.dport or 0))
    )


def _is_in(number: int, family: Family, network: Network) -> bool:
    return family == network.family and (number ^ network.first) >> BITS[family] - network.prefix == 0

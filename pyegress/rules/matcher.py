# SPDX-License-Identifier: MIT
"""What a chain of rules does with the first packet of a connection, without asking one rule after the other.

Where something isn't known it errs towards dropping: a rule lets through only what surely matches it, and drops what
may match it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from pyegress.rules.addresses import BITS
from pyegress.rules.firewall import Entry, Firewall, Range

LOOPBACK = "lo"
_ICMP = (1, 58)


class Packet(NamedTuple):
    """The first of a connection."""

    family: Literal[4, 6]
    protocol: int
    """IP protocol number."""
    address: int
    """Of the destination."""
    dport: int | None
    """None for protocols without ports."""
    oifname: str | None = None
    """This and what follows is None where it isn't known."""
    uid: int | None = None
    """Of the socket's owner."""
    cgroup: str | None = None
    """Path of the socket's cgroup v2 without the leading slash."""
    sport: int | None = None


class Decision(NamedTuple):
    """What a chain does with a packet."""

    accepts: bool
    entry: int | None
    """Place of the entry that decides; None where that is the policy."""
    surely: bool = True
    """False where it may drop: the entry asks for what isn't known or isn't understood."""


def lets_through(entry: Entry) -> bool:
    """Whether it can be what lets a first packet through, as far as it is understood."""
    return entry.verdict == "accept" and not entry.established and is_understood(entry)


def is_understood(entry: Entry) -> bool:
    """Whether all that it asks for is known of some packets; types of ICMP never are."""
    return not entry.unknown and entry.icmp_types is None


def device_of(entry: Entry) -> str | None:
    """The device that it asks for."""
    return LOOPBACK if entry.loopback else entry.oifname


_Key = tuple[int, int | None, int | None]
"""Leading bits of the destination, protocol, port."""


class _Table(NamedTuple):
    """Entries that ask for the same fields, by what they ask for."""

    shift: int
    """Bits of the address that they don't look at."""
    by_protocol: bool
    by_port: bool
    entries: dict[_Key, list[int]]


class Matcher:
    """Decides about packets of the firewall's families."""

    def __init__(self, firewall: Firewall) -> None:
        self._entries = firewall.entries
        self._policy = Decision(firewall.policy in ("accept", "continue"), None)
        self._tables = {family: self._made(family) for family in firewall.families}

    def decide(self, packet: Packet) -> Decision:
        """As if each entry was asked, first to last."""
        best, decision = len(self._entries), self._policy
        for shift, by_protocol, by_port, entries in self._tables[packet.family]:
            key = (
                packet.address >> shift,
                packet.protocol if by_protocol else None,
                packet.dport if by_port else None,
            )
            for place in entries.get(key, ()):
                if place >= best:
                    break
                found = self._decided(place, packet)
                if found is not None:
                    best, decision = place, found
                    break
        return decision

    def _made(self, family: Literal[4, 6]) -> Sequence[_Table]:
        tables: dict[tuple[int, bool, bool], _Table] = {}
        for place, entry in enumerate(self._entries):
            if not _concerns(entry, family):
                continue
            network, dports = entry.network, entry.dports
            shift = BITS[family] if network is None else BITS[family] - network.prefix
            port = dports[0][0] if dports and len(dports) == 1 and dports[0][0] == dports[0][1] else None
            shape = shift, entry.protocol is not None, port is not None
            table = tables.setdefault(shape, _Table(*shape, {}))
            first = 0 if network is None else network.first >> shift
            table.entries.setdefault((first, entry.protocol, port), []).append(place)
        return list(tables.values())

    def _decided(self, place: int, packet: Packet) -> Decision | None:
        """What an entry that is for such a destination and protocol does; None where it doesn't match."""
        entry = self._entries[place]
        if entry.dports is not None and (packet.dport is None or not _in_ranges(entry.dports, packet.dport)):
            return None
        if entry.icmp_types is not None and packet.protocol not in _ICMP:
            return None
        known = [
            _holds(device_of(entry), packet.oifname, str.__eq__),
            _holds(entry.uids, packet.uid, _in_ranges),
            _holds(entry.cgroup, packet.cgroup, _is_below),
            _holds(entry.sports, packet.sport, _in_ranges),
        ]
        if False in known:
            return None
        surely = None not in known and is_understood(entry)
        if entry.verdict == "accept":
            return Decision(True, place) if surely else None
        return Decision(False, place, surely)


def _concerns(entry: Entry, family: int) -> bool:
    """Whether it can decide about first packets of that family."""
    if entry.verdict == "continue" or entry.established:
        return False
    if entry.verdict == "accept" and not is_understood(entry):
        return False
    return entry.family in (None, family) and (entry.network is None or entry.network.family == family)


def _holds(asked: object, value: object, matches: Callable[..., bool]) -> bool | None:
    """None where the rule asks for what isn't known."""
    if asked is None:
        return True
    return None if value is None else matches(asked, value)


def _in_ranges(ranges: Iterable[Range], value: int) -> bool:
    return any(first <= value <= last for first, last in ranges)


def _is_below(cgroup: str, path: str) -> bool:
    return path == cgroup or path.startswith(f"{cgroup}/") or not cgroup

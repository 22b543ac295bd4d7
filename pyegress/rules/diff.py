# SPDX-License-Identifier: MIT
"""How rules that are wanted differ from those that are live: by what they let through, not by text or order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import structs

from pyegress.rules.firewall import EMPTY_SET, Entry, Firewall, Range

_FAMILY_OF = {1: 4, 58: 6}
"""ICMP and ICMPv6."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Rules that let something through, in their order."""

    missing: tuple[Entry, ...]
    """Wanted, not live."""
    superfluous: tuple[Entry, ...]
    """Live, not wanted."""
    never_hit: tuple[Entry, ...]
    """Live, and counted no packet."""
    uncounted: int
    """Live rules that don't count."""
    wanted: int
    live: int

    @property
    def is_same(self) -> bool:
        """Whether as much is let through."""
        return not (self.missing or self.superfluous)


class _Meaning(NamedTuple):
    """One family, one range of ports: what an entry asks for, in a form that equal ones share."""

    family: int
    entry: Entry
    """Without what is for people only."""


def compare(wanted: Iterable[Firewall], live: Iterable[Firewall]) -> Difference:
    """What would have to be loaded, and what to be removed."""
    wanted_entries, live_entries = list(_accepting(wanted)), list(_accepting(live))
    wanted_meanings = {each for _, meanings in wanted_entries for each in meanings}
    live_meanings = {each for _, meanings in live_entries for each in meanings}
    return Difference(
        missing=tuple(entry for entry, meanings in wanted_entries if not meanings <= live_meanings),
        superfluous=tuple(entry for entry, meanings in live_entries if not meanings <= wanted_meanings),
        never_hit=tuple(entry for entry, _ in live_entries if entry.hits == 0),
        uncounted=sum(entry.hits is None for entry, _ in live_entries),
        wanted=len(wanted_entries),
        live=len(live_entries),
    )


def _accepting(firewalls: Iterable[Firewall]) -> Iterator[tuple[Entry, frozenset[_Meaning]]]:
    for firewall in firewalls:
        by_name: set[frozenset[_Meaning]] = set()
        for entry in firewall.entries:
            if entry.verdict != "accept":
                continue
            meanings = frozenset(_meanings(entry, firewall.families))
            # A rule by name is one, however many addresses its set holds.
            if entry.name_set is None or meanings not in by_name:
                yield entry, meanings
            if entry.name_set is not None:
                by_name.add(meanings)


def _meanings(entry: Entry, families: Sequence[int]) -> Iterator[_Meaning]:
    family = entry.family
    if family is None and entry.network is not None:
        family = entry.network.family
    if family is None and entry.protocol is not None:
        family = _FAMILY_OF.get(entry.protocol)  # type: ignore[assignment]
    bare = structs.replace(
        entry,
        line=0,
        text="",
        comment=None,
        hits=None,
        family=None,
        loopback=entry.loopback or entry.oifname == "lo",
        oifname=None if entry.oifname == "lo" else entry.oifname,
        sports=_joined(entry.sports),
        uids=_joined(entry.uids),
        icmp_types=_joined(entry.icmp_types),
        unknown=tuple(sorted(each for each in entry.unknown if each != EMPTY_SET)),
        # What a name led to changes while rules are loaded; which name they are for doesn't.
        network=entry.network if entry.name_set is None else None,
    )
    dports = _joined(entry.dports)
    for each in families if family is None else (family,):
        for one in (None,) if dports is None else ((ports,) for ports in dports):
            yield _Meaning(each, structs.replace(bare, dports=one))


def _joined(ranges: Iterable[Range] | None) -> tuple[Range, ...] | None:
    """In order, those that touch as one."""
    if ranges is None:
        return None
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)

# SPDX-License-Identifier: MIT
"""The chains of a table of iptables, followed from OUTPUT and laid out as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import structs

from pyegress.errors import InputError
from pyegress.rules.addresses import Network
from pyegress.rules.firewall import Entry, Range, Verdict
from pyegress.rules.iptables_rule import GOES_ON, VERDICTS, Line

T = TypeVar("T")

_DEPTH = 32
_MOST = 1_000_000
"""Entries; chains that lead to each other again and again could give any number."""


class Chain(msgspec.Struct):
    """Of one table."""

    policy: Verdict = "accept"
    lines: list[Line] = msgspec.field(default_factory=list)


Table = dict[str, Chain]
"""Chains by name."""


def laid_out(table: Table) -> tuple[Entry, ...]:
    """The rules of OUTPUT with those of the chains that it leads to in their places."""
    entries: list[Entry] = []
    start = table.get("OUTPUT", Chain())
    for entry in _Walk(table).chain("OUTPUT", None, start.policy, ()):
        if len(entries) >= _MOST:
            raise InputError(f"chains lead to more than {_MOST} rules")
        entries.append(entry)
    return tuple(entries)


class _Walk:
    """Through the chains of a table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def chain(
        self, name: str, outer: Entry | None, at_end: Verdict | None, path: tuple[str, ...]
    ) -> Iterator[Entry]:
        """A chain for packets that match `outer`; `at_end` is what happens behind it, None: the caller goes on."""
        lines = self._table[name].lines if name in self._table else []
        path = (*path, name)
        left: tuple[str, ...] = ()
        for place, line in enumerate(lines, 1):
            returns = line.goto or line.target == "RETURN"
            for asked in line.entries:
                entry = _both(outer, asked, left)
                if entry is None:
                    continue
                if line.target in self._table:
                    behind = at_end if returns or place == len(lines) else None
                    yield from self._followed(line, entry, behind, path)
                elif line.target != "RETURN":
                    yield _decided(line, entry)
                if returns:
                    if at_end is not None:
                        yield structs.replace(entry, verdict=at_end)
                    elif not asked.established and not _matches_all(asked):
                        left = (*left, f"behind: {asked.text}")
                    if _matches_all(asked):
                        return

    def _followed(
        self, line: Line, entry: Entry, at_end: Verdict | None, path: tuple[str, ...]
    ) -> Iterator[Entry]:
        name = line.target or ""
        if name in path or len(path) >= _DEPTH:
            yield _possibly_dropped(entry, f"-j {name}: leads too far")
        else:
            yield from self.chain(name, entry, at_end, path)


def _decided(line: Line, entry: Entry) -> Entry:
    target = line.target
    if target is None or target in GOES_ON or target in VERDICTS:
        return entry
    return _possibly_dropped(entry, f"-j {target}")


def _possibly_dropped(entry: Entry, why: str) -> Entry:
    return structs.replace(entry, verdict="drop", unknown=(*entry.unknown, why))


def _matches_all(entry: Entry) -> bool:
    asked = (
        entry.protocol,
        entry.network,
        entry.name_set,
        entry.dports,
        entry.sports,
        entry.oifname,
        entry.uids,
        entry.cgroup,
        entry.icmp_types,
    )
    return not (entry.established or entry.loopback or entry.unknown) and all(each is None for each in asked)


def _both(outer: Entry | None, inner: Entry, left: tuple[str, ...]) -> Entry | None:
    """A rule for packets that match both; None where there are none."""
    if outer is None:
        return inner if not left else structs.replace(inner, unknown=(*left, *inner.unknown))
    try:
        device = _same(_device(outer), _device(inner))
        return structs.replace(
            inner,
            protocol=_same(outer.protocol, inner.protocol),
            network=_narrower(outer.network, inner.network),
            name_set=_same(outer.name_set, inner.name_set),
            dports=_overlap(outer.dports, inner.dports),
            sports=_overlap(outer.sports, inner.sports),
            oifname=None if device == "lo" else device,
            loopback=device == "lo",
            uids=_overlap(outer.uids, inner.uids),
            cgroup=_deeper(outer.cgroup, inner.cgroup),
            icmp_types=_overlap(outer.icmp_types, inner.icmp_types),
            established=outer.established or inner.established,
            unknown=(*outer.unknown, *left, *inner.unknown),
        )
    except _NeverError:
        return None


class _NeverError(Exception):
    """No packet matches both."""


def _device(entry: Entry) -> str | None:
    return "lo" if entry.loopback else entry.oifname


def _same(one: T | None, other: T | None) -> T | None:
    if one is None or other is None or one == other:
        return other if one is None else one
    raise _NeverError


def _narrower(one: Network | None, other: Network | None) -> Network | None:
    if one is None or other is None:
        return other if one is None else one
    wide, narrow = sorted((one, other), key=lambda network: network.prefix)
    if (wide.first ^ narrow.first) >= wide.addresses:
        raise _NeverError
    return narrow


def _overlap(one: tuple[Range, ...] | None, other: tuple[Range, ...] | None) -> tuple[Range, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    both = tuple((max(a, c), min(b, d)) for a, b in one for c, d in other if max(a, c) <= min(b, d))
    if not both:
        raise _NeverError
    return both


def _deeper(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return other if one is None else one
    for path, above in ((one, other), (other, one)):
        if f"{path}/".startswith(f"{above}/") or not above:
            return path
    raise _NeverError

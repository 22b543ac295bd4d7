# SPDX-License-Identifier: MIT
"""Which names led to an address, for as long as the answers say and a while longer; of bounded size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

MOST = 65_536
"""Pairs of address and name, some 25 MB; where names are as long as can be, 80 MB."""
MOST_OF_ADDRESS = 32
_LEFT = 24
"""When they became more."""
MOST_SHOWN = 8
"""Of one connection."""
MOST_ASKERS = 4
GRACE_NS = 3_600_000_000_000
"""Programs connect to what they looked up before: browsers for minutes, pools of connections for hours."""
_SECOND_NS = 1_000_000_000


class Named(NamedTuple):
    """A name of an address."""

    name: str
    source: str
    """dns, sni, hosts or ptr."""
    age_s: int
    """Since the newest answer that said so."""


class _Entry(msgspec.Struct, gc=False, frozen=True):
    """What was last told of a name; all names of one answer share it."""

    source: str
    when_ns: int
    until_ns: int
    askers: tuple[int, ...]


class Memory:
    """For one thread; times are of any one clock."""

    def __init__(self, most: int = MOST, grace_ns: int = GRACE_NS) -> None:
        self.forgotten = 0
        """Names that were still good when others needed their place."""
        self._most = most
        self._grace_ns = grace_ns
        self._size = 0
        # Ordered by the newest answer, oldest first.
        self._addresses: OrderedDict[str, dict[str, _Entry]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def learn(
        self, address: str, names: Iterable[str], source: str, ttl_s: int, now_ns: int, asker: int = 0
    ) -> None:
        """Remember that these names, in the order to show them, led to an address; `asker`: who asked, 0: unknown."""
        self.learn_each(((address, ttl_s),), tuple(names), source, now_ns, asker)

    def learn_each(
        self,
        addresses: Iterable[tuple[str, int]],
        names: Sequence[str],
        source: str,
        now_ns: int,
        asker: int = 0,
    ) -> None:
        """The same of many addresses, each for so many seconds."""
        made: dict[int, _Entry] = {}
        askers = (asker,) if asker else ()
        for address, ttl_s in addresses:
            new = made.get(ttl_s)
            if new is None:
                until_ns = now_ns + ttl_s * _SECOND_NS + self._grace_ns
                new = made[ttl_s] = _Entry(source, now_ns, until_ns, askers)
            self._learn(address, names, new, now_ns)

    def _learn(self, address: str, names: Iterable[str], new: _Entry, now_ns: int) -> None:
        entries = self._addresses.get(address)
        if entries is None:
            entries = self._addresses[address] = dict.fromkeys(names, new)
            self._size += len(entries)
        else:
            self._addresses.move_to_end(address)
            for name in names:
                old = entries.get(name)
                self._size += old is None
                entries[name] = new if old is None else _younger(new, old)
        if len(entries) > MOST_OF_ADDRESS:
            self._forget_some(entries, now_ns)
        while self._size > self._most:
            self._forget_oldest(now_ns)

    def names(self, address: str, now_ns: int, asker: int = 0) -> Sequence[Named]:
        """Those of an address: first what that process asked for, each in the order in which they were learned."""
        entries = self._addresses.get(address)
        if entries is None:
            return ()
        good = [(name, entry) for name, entry in entries.items() if now_ns < entry.until_ns]
        if len(good) < len(entries):
            self._size -= len(entries) - len(good)
            if not good:
                del self._addresses[address]
                return ()
            self._addresses[address] = dict(good)
        if asker and len(good) > 1:
            good.sort(key=lambda each: asker not in each[1].askers)
        return [
            Named(name, entry.source, max(0, now_ns - entry.when_ns) // _SECOND_NS)
            for name, entry in good[:MOST_SHOWN]
        ]

    def judged_by(self, address: str, now_ns: int, asker: int) -> Sequence[str]:
        """All names of an address, however many; of a process that asked for some of them itself only these."""
        entries = self._addresses.get(address, {})
        good = [(name, entry) for name, entry in entries.items() if now_ns < entry.until_ns]
        own = [name for name, entry in good if asker and asker in entry.askers]
        return own or [name for name, _ in good]

    def _forget_some(self, entries: dict[str, _Entry], now_ns: int) -> None:
        # Some at once, so that an address with a new name in each answer isn't sorted each time.
        for name in sorted(entries, key=lambda name: entries[name].when_ns)[: len(entries) - _LEFT]:
            self.forgotten += now_ns < entries.pop(name).until_ns
            self._size -= 1

    def _forget_oldest(self, now_ns: int) -> None:
        _, entries = self._addresses.popitem(last=False)
        self._size -= len(entries)
        self.forgotten += sum(now_ns < entry.until_ns for entry in entries.values())


def _younger(new: _Entry, old: _Entry) -> _Entry:
    """What was told again; nobody who asked before is forgotten by it, nor that an answer said so."""
    if new.source != old.source:
        new = msgspec.structs.replace(new, source=old.source if new.source == "sni" else new.source)
    if new.until_ns >= old.until_ns and (new.askers == old.askers or not old.askers):
        return new
    askers = tuple(dict.fromkeys((*old.askers, *new.askers)))[-MOST_ASKERS:]
    return _Entry(new.source, new.when_ns, max(new.until_ns, old.until_ns), askers)

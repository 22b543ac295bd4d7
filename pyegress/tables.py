# SPDX-License-Identifier: MIT
"""The kernel's filter tables: how they are changed while they are looked at, and who counts in them.

What two sets of tables both report is reported all the while, and what both hide is hidden: first what is to be hidden
is put in, then networks are moved, then what is to be hidden no more is taken out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import NamedTuple, TypeAlias

from pyegress.prefixes import Network, Verdict

PORTS = range(1, 65536)
UNCOUNTED = 0xFFFF_FFFF
"""Number of a rule that has no counter."""
_EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
Key: TypeAlias = int | bytes | Network


class Tables(NamedTuple):
    """What each table holds; what it lacks is not hidden."""

    ports: Mapping[int, Verdict] = {}
    cidrs: Mapping[Network, Verdict] = {}
    comms: Mapping[bytes, Verdict] = {}
    """By comm, padded with NUL to 16 bytes."""
    uids: Mapping[int, Verdict] = {}


class Step(NamedTuple):
    """An entry to put into a table of the kernel, or without a verdict to take out."""

    table: str
    key: Key
    verdict: Verdict | None


def without_only(
    ports: Mapping[int, Verdict], only_ports: bool, cidrs: Mapping[Network, Verdict], only_cidrs: bool
) -> tuple[dict[int, Verdict], dict[Network, Verdict]]:
    """The same ports and networks, where all that `only-` rules leave out is an entry that hides."""
    hides = Verdict(UNCOUNTED, True, False)
    filled = dict.fromkeys(PORTS, hides) if only_ports else {}
    everywhere = dict.fromkeys(_EVERYWHERE, hides) if only_cidrs else {}
    return {**filled, **ports}, {**everywhere, **cidrs}


def hiding(old: Tables, new: Tables) -> Iterator[Step]:
    """The first steps: what is to be hidden, but for networks."""
    for name in ("ports", "comms", "uids"):
        before, after = getattr(old, name), getattr(new, name)
        for key, verdict in after.items():
            if verdict.ignore and before.get(key) != verdict:
                yield Step(name, key, verdict)


def moving(old: Tables, new: Tables) -> Iterator[Step]:
    """The next: networks, so that each address goes from its old verdict to the new one at a stroke.

    As the longest prefix decides, longest first when put in, and shortest first when taken out.
    """
    before, after = old.cidrs, new.cidrs
    put = [network for network, verdict in after.items() if before.get(network) != verdict]
    for network in sorted(put, key=lambda network: -network.prefixlen):
        yield Step(f"cidrs{network.version}", network, after[network])
    gone = [network for network in before if network not in after]
    for network in sorted(gone, key=lambda network: network.prefixlen):
        yield Step(f"cidrs{network.version}", network, None)


def showing(old: Tables, new: Tables) -> Iterator[Step]:
    """The last: what is to be hidden no more, but for networks."""
    for name in ("ports", "comms", "uids"):
        before, after = getattr(old, name), getattr(new, name)
        for key, verdict in after.items():
            if not verdict.ignore and before.get(key) != verdict:
                yield Step(name, key, verdict)
        for key in before:
            if key not in after:
                yield Step(name, key, None)


class RuleNumbers:
    """Which counter of the kernel is whose: a rule keeps its own while it is in force, and its count for ever."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._number_of: OrderedDict[str, int] = OrderedDict()
        """By label, those not in force for longest first."""
        self._began: dict[int, int] = {}
        """What a counter stood at when its rule got it."""
        self._past: dict[str, int] = {}

    @property
    def used(self) -> int:
        """Counters that are or were some rule's: those below this number."""
        return len(self._began)

    def assign(self, labels: Sequence[str], counters: Callable[[], Sequence[int]]) -> list[int]:
        """Numbers of the rules that are to be in force; others lose theirs once all are taken, if not in force before.

        There must be room for those in force before and now.
        """
        stand: Sequence[int] | None = None
        for label in labels:
            number = self._number_of.pop(label, None)
            if number is None:
                number = len(self._began)
                if number >= self._capacity:
                    stand = stand or counters()
                    number = self._take_oldest(stand)
                else:
                    self._began[number] = 0
            self._number_of[label] = number
        return [self._number_of[label] for label in labels]

    def totals(self, counters: Sequence[int]) -> dict[str, int]:
        """What each rule has counted that ever was in force."""
        found = dict(self._past)
        for label, number in self._number_of.items():
            found[label] = found.get(label, 0) + counters[number] - self._began[number]
        return found

    def _take_oldest(self, counters: Sequence[int]) -> int:
        label, number = self._number_of.popitem(last=False)
        self._past[label] = self._past.get(label, 0) + counters[number] - self._began[number]
        self._began[number] = counters[number]
        return number

# SPDX-License-Identifier: MIT
"""Answers of DNS as they pass -> sets of names' addresses, so that a connection right after an answer goes through."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from math import inf

from pyegress.apply import namesets
from pyegress.apply.changes import Changes
from pyegress.apply.namesets import NameSet
from pyegress.errors import EgressError
from pyegress.losses import Losses
from pyegress.names.lookup import host_of
from pyegress.names.observed import ObservedDns
from pyegress.names.packettap import PacketTap
from pyegress.rules.addresses import Network

MOST_OF_SET = 4096
"""Addresses of a set within its grace: whoever answers for a name gives as many as they like."""
LOOK_S = 300.0
"""How often to see which sets are loaded where nobody says that it changes: iptables-legacy."""


class Follower:
    """Open from construction until `close`. `run` is for one thread; `stop` and `look_again` are for any.

    The tap is a packet socket: it sees the network namespace that the rules are of. By the cgroups' root the answers
    that somebody gives himself in a namespace of his own would be taken for those of this host's resolvers.
    """

    def __init__(self, table: str, servers: Container[bytes], say: Callable[[str], None]) -> None:
        self.added = self.failed = self.refused = 0
        self._table = table
        self._say = say
        self._complaint = ""
        self._told: dict[str, dict[Network, None]] = {}
        self._sets: dict[str, list[Kept]] = {}
        self._is_stopping = self._is_old = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._tap = PacketTap(same_link=True)
        self._changes = Changes(table)
        self._dns = ObservedDns(self, servers)
        self.look()

    @property
    def names(self) -> int:
        """How many have sets now."""
        return len(self._sets)

    @property
    def answers(self) -> int:
        """How many were believed, of whatever name."""
        return self._dns.answers

    def run(self) -> None:
        """Until `stop`, with all that came before that."""
        poll = select.poll()
        for each in (self._tap, self._changes, self._wake):
            poll.register(each, select.POLLIN)
        looked_s = time.monotonic()
        while True:
            ready = {fd for fd, _ in poll.poll(LOOK_S * 1000)}
            if self._wake in ready:
                os.eventfd_read(self._wake)
            is_last, is_old, self._is_old = self._is_stopping, self._is_old, False
            # What is taken first came before the sets that are looked for then.
            segments = list(self._tap.read())
            if self._changes.happened() or is_old or time.monotonic() - looked_s >= LOOK_S:
                self._look_or_say()
                looked_s = time.monotonic()
            self._dns.take(segments)
            self._fill()
            if is_last:
                return

    def stop(self) -> None:
        """Have `run` return."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)

    def look_again(self) -> None:
        """Have it see which sets are loaded."""
        self._is_old = True
        os.eventfd_write(self._wake, 1)

    def look(self) -> None:
        """See which sets are loaded; what they had was maybe in others of the same name."""
        sets = namesets.loaded(self._table)
        graces = namesets.graces(sets, self._table)
        self._sets = {}
        for each in sets:
            self._sets.setdefault(each.name, []).append(Kept(each, graces.get(each, inf)))

    def learn_each(
        self,
        addresses: Iterable[tuple[str, int]],
        names: Sequence[str],
        source: str,
        now_ns: int,
        asker: int = 0,
    ) -> None:
        """What an answer says."""
        wanted = [name for name in names if name in self._sets]
        if wanted:
            hosts = filter(None, (host_of(address) for address, _ in addresses))
            new = dict.fromkeys(hosts)
            for name in wanted:
                self._told.setdefault(name, {}).update(new)

    def losses(self) -> Losses:
        """What the end of it says was not used."""
        found = Losses()
        found.put("lost", "DNS messages that came faster than they were read", self._tap.lost)
        found.put("lost", "DNS questions that were forgotten for others", self._dns.asked.forgotten)
        found.put("lost", f"addresses of names that had {MOST_OF_SET} already", self.refused)
        for why, count in self._dns.streams.given_up.items():
            found.put("lost", f"DNS over TCP: {why}", count)
        for why, count in self._dns.unused.items():
            found.put("skipped", f"DNS messages {why}", count)
        return found

    def close(self) -> None:
        """Let go of everything."""
        self._tap.close()
        self._changes.close()
        os.close(self._wake)

    def _fill(self) -> None:
        """Add what isn't there, or not for long any more; once more if the sets are others by now."""
        refused = self.refused
        for is_last in (False, True):
            self.refused = refused
            due = {kept: mine for kept, mine in self._due() if mine}
            if not due:
                break
            addresses: dict[str, dict[Network, None]] = {}
            for kept, mine in due.items():
                addresses.setdefault(kept.name_set.name, {}).update(dict.fromkeys(mine))
            listed = {name: list(each) for name, each in addresses.items()}
            try:
                self.added += namesets.fill((kept.name_set for kept in due), listed, self._table)
            except EgressError as error:
                if not is_last:
                    self._look_or_say()
                    continue
                self.failed += sum(map(len, due.values()))
                self._complain(str(error))
            else:
                self._complaint = ""
                now_s = time.monotonic()
                for kept, mine in due.items():
                    kept.put(mine, now_s)
            break
        self._told.clear()

    def _due(self) -> Iterator[tuple[Kept, list[Network]]]:
        now_s = time.monotonic()
        for name, addresses in self._told.items():
            for kept in self._sets.get(name, ()):
                mine = [each for each in addresses if kept.wants(each, now_s)]
                room = MOST_OF_SET - len(kept)
                new = [each for each in mine if each not in kept]
                if len(new) > room:
                    self.refused += len(new) - room
                    left_out = set(new[room:])
                    mine = [each for each in mine if each not in left_out]
                yield kept, mine

    def _look_or_say(self) -> None:
        try:
            self.look()
        except EgressError as error:
            self._complain(str(error))

    def _complain(self, text: str) -> None:
        # Once, not for each answer.
        if text != self._complaint:
            self._complaint = text
            self._say(f"{text}; names are still followed")


class Kept:
    """A set with what was added to it and when, oldest first."""

    def __init__(self, name_set: NameSet, grace_s: float) -> None:
        self.name_set = name_set
        self._grace_s = grace_s
        self._added_s: dict[Network, float] = {}

    def __len__(self) -> int:
        return len(self._added_s)

    def __contains__(self, address: Network) -> bool:
        return address in self._added_s

    def wants(self, address: Network, now_s: float) -> bool:
        """Whether it is of that family, and not there for half of its time still."""
        if address.family != self.name_set.family:
            return False
        while self._added_s and now_s - self._added_s[oldest := next(iter(self._added_s))] >= self._grace_s:
            del self._added_s[oldest]
        return now_s - self._added_s.get(address, -inf) >= self._grace_s / 2

    def put(self, addresses: Iterable[Network], now_s: float) -> None:
        """They are there, for its whole time from now."""
        for address in addresses:
            self._added_s.pop(address, None)
            self._added_s[address] = now_s

# SPDX-License-Identifier: MIT
"""Gives connections the names that led to their addresses."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from pyegress.decode.address import Addresses
from pyegress.errors import UnsupportedError
from pyegress.escape import display
from pyegress.names.cgrouptap import CgroupTap
from pyegress.names.hellos import Hellos
from pyegress.names.hosts import Hosts
from pyegress.names.memory import Memory, Named
from pyegress.names.observed import ObservedDns
from pyegress.names.packettap import PacketTap
from pyegress.names.segment import DNS_PORT, Segment
from pyegress.plugin import Batch, Context
from pyegress.record import Connection

if TYPE_CHECKING:
    from pyegress.names.ptr import Reverse

AGES_S = (86_400, 3600, 600, 60, 10, 1)
"""Ages are rounded down to these, so that connections that repeat are still told as repeats."""
DOT_PORT, HTTPS_PORT = 853, 443
PUBLIC_RESOLVERS = frozenset(
    (
        *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
        *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
        *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),
        *("208.67.222.222", "208.67.220.220", "94.140.14.14", "94.140.15.15"),
    )
)
"""Cloudflare, Google, Quad9, OpenDNS, AdGuard: whose HTTPS is DNS."""
MOST_SUSPECTS = MOST_ASKERS = 4096
KEPT_NS = 1_000_000_000
MOST_KEPT = 4096
NO_ANSWER, DOT_OR_DOH, DNS_UNSEEN, IS_DNS = "no-answer", "dot-or-doh", "dns-unseen", "is-dns"
"""What `Connection.dest_names_missing` is."""
AUTO = "dns,hosts"
"""What costs little; a packet socket, which sees every packet, only if it is asked for."""
_force = msgspec.structs.force_setattr


class _Found(NamedTuple):
    names: tuple[str, ...]
    sources: tuple[str, ...]
    ages: tuple[int, ...]


class Tap(Protocol):
    """Where DNS is seen passing."""

    @property
    def place(self) -> str:
        """The kind of tap."""

    @property
    def lost(self) -> int:
        """What came faster than it was read."""

    def read(self) -> Iterator[Segment]:
        """What waits."""

    def close(self) -> None:
        """Let go."""


class Namer:
    """For one thread; only what was seen before a connection can name it, so `named` looks at what passed first."""

    def __init__(self, hook: str, names: str, context: Context, *, taps: bool = True) -> None:
        sources = (AUTO if names == "auto" else names).split(",")
        self.memory = Memory()
        self.dns = ObservedDns(self.memory)
        self._hook = hook
        self._own_pid = os.getpid()
        self._askers: OrderedDict[tuple[bytes, int, bytes], int] = OrderedDict()
        self._addresses = Addresses()
        self._context = context
        self._sees_dns = "dns" in sources
        self._hellos: Hellos | None = None
        if "sni" in sources:
            self._hellos = Hellos(self.memory, lambda text: context.notice(f"{hook}: {text}"))
        self._tap: Tap | None = None
        if taps and (self._sees_dns or self._hellos is not None):
            self._tap = _tap(hook, context, may_be_packets=names != "auto", hellos=self._hellos is not None)
        sees_answers = self._sees_dns and (self._tap is not None or not taps)
        self._usual_reason = NO_ANSWER if sees_answers else DNS_UNSEEN
        self._hosts = Hosts() if "hosts" in sources else None
        self._reverse: Reverse | None = None
        if "ptr" in sources:
            # Here, because few ask for it, and it is most of dnspython.
            from pyegress.names.ptr import Reverse

            self._reverse = Reverse()
        self._suspects: OrderedDict[int, None] = OrderedDict()
        self._unnamed = self._suspected = 0
        self._is_on = names != "none"
        # Where many connections come at a time, they go to few addresses.
        self._kept: dict[tuple[str, int], _Found | None] = {}
        self._kept_answers = self._kept_ns = 0

    @property
    def place(self) -> str | None:
        """The kind of tap that sees DNS."""
        return self._tap.place if self._tap is not None else None

    def look(self) -> None:
        """Learn from what passed since the last time."""
        if self._tap is not None:
            segments = self._tap.read()
            self.take(map(self._asked, segments) if self._askers else segments)

    def take(self, segments: Iterable[Segment]) -> None:
        """Learn from what was seen elsewhere."""
        if self._hellos is None:
            self.dns.take(segments)
            return
        for segment in segments:
            if segment.ends.server_port != DNS_PORT:
                self._hellos.take(segment)
            elif self._sees_dns:
                self.dns.take((segment,))

    def named(self, batch: Batch, now_ns: int | None = None) -> Batch:
        """The connections with their names; `now_ns`: on the clock of the segments, else CLOCK_BOOTTIME."""
        if not self._is_on:
            return batch
        self.look()
        if not batch:
            return batch
        if now_ns is None:
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        learned = self.dns.answers + (self._hellos.learned if self._hellos is not None else 0)
        if self._kept_answers != learned or not 0 <= now_ns - self._kept_ns < KEPT_NS:
            self._kept_answers, self._kept_ns = learned, now_ns
            self._kept.clear()
        return [self._named(connection, now_ns) for connection in batch]

    def asks(self, src: bytes, sport: int, dst: bytes, pid: int) -> None:
        """Whose a datagram to port 53 is that goes on by a verdict of ours: the tap takes it for our own."""
        self._askers[src, sport, dst] = pid
        if len(self._askers) > MOST_ASKERS:
            self._askers.popitem(last=False)

    def judged_by(self, dest: bytes, asker: int) -> Sequence[str]:
        """The names that a connection of that process to 16 bytes of address may be judged by.

        What passed until now is learned first. A name that the address' owner chose is none of them.
        """
        self.look()
        address = self._addresses[dest]
        if address is None:
            return ()
        found = self.memory.judged_by(address, time.clock_gettime_ns(time.CLOCK_BOOTTIME), asker)
        return found or (self._hosts.names(address) if self._hosts is not None else ())

    def put_losses(self) -> None:
        """Counters into the Losses: no connection is lost by any of it."""
        hook, dns = self._hook, self.dns
        put = partial(self._context.losses.put, "unnamed")
        put(f"{hook}: connections to addresses that no answer told", self._unnamed)
        put(f"{hook}: connections of programs that may use DNS over TLS or HTTPS", self._suspected)
        if self._tap is not None:
            put(f"{hook}: DNS messages that came faster than they were read", self._tap.lost)
        for why, count in tuple(dns.unused.items()):
            put(f"{hook}: DNS messages {why}", count)
        for why, count in tuple(dns.streams.given_up.items()):
            put(f"{hook}: DNS over TCP: {why}", count)
        if self._hellos is not None:
            for why, count in tuple(self._hellos.unused.items()):
                put(f"{hook}: beginnings of TLS or QUIC {why}", count)
        put(f"{hook}: names that were forgotten for others", self.memory.forgotten)
        put(f"{hook}: DNS questions that were forgotten for others", dns.asked.forgotten)
        if self._reverse is not None:
            put(f"{hook}: addresses that were not looked up (names:ptr)", self._reverse.dropped)

    def close(self) -> None:
        """Let go; may be called twice."""
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        if self._reverse is not None:
            self._reverse.close()

    def _asked(self, segment: Segment) -> Segment:
        if segment.tgid != self._own_pid:
            return segment
        ends = segment.ends
        return segment._replace(tgid=self._askers.pop((ends.client, ends.client_port, ends.server), 0))

    def _named(self, connection: Connection, now_ns: int) -> Connection:
        process = connection.process
        pid = (process.pid if process is not None else None) or 0
        port = connection.dest_port
        if port == DOT_PORT or (port == HTTPS_PORT and connection.dest_ip in PUBLIC_RESOLVERS):
            self._suspect(pid)
        key = connection.dest_ip, pid
        try:
            found = self._kept[key]
        except KeyError:
            found = self._keep(key, now_ns)
        if found is None:
            if port == DNS_PORT:
                why_not = IS_DNS
            elif pid in self._suspects:
                self._suspected += 1
                why_not = DOT_OR_DOH
            else:
                self._unnamed += 1
                why_not = self._usual_reason
            # In place: most have none, a copy takes ten times as long, and no output has it yet.
            _force(connection, "dest_names_missing", why_not)
            return connection
        names, sources, ages = found
        return msgspec.structs.replace(
            connection,
            dest_names=names,
            dest_name_sources=sources,
            dest_name_ages=ages,
            # A repeat is made of the flow's first record, which may have had none.
            dest_names_missing=None,
        )

    def _keep(self, key: tuple[str, int], now_ns: int) -> _Found | None:
        address, pid = key
        found = self._find(address.partition("%")[0], now_ns, pid)
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        kept = self._kept[key] = (
            _Found(
                tuple(each.name for each in found),
                tuple(each.source for each in found),
                tuple(_step(each.age_s) for each in found),
            )
            if found
            else None
        )
        return kept

    def _find(self, address: str, now_ns: int, pid: int) -> Sequence[Named]:
        found = self.memory.names(address, now_ns, pid)
        if not found and self._hosts is not None:
            found = [Named(name, "hosts", 0) for name in self._hosts.names(address)]
        if not found and self._reverse is not None:
            names, age_s = self._reverse.names(address)
            found = [Named(name, "ptr", int(age_s)) for name in names]
        return found

    def _suspect(self, pid: int) -> None:
        """Remember programs whose names can't be seen."""
        if pid:
            self._suspects[pid] = None
            if len(self._suspects) > MOST_SUSPECTS:
                self._suspects.popitem(last=False)


def _step(age_s: int) -> int:
    return next((step for step in AGES_S if age_s >= step), 0)


def _tap(hook: str, context: Context, may_be_packets: bool, hellos: bool) -> Tap | None:
    try:
        return CgroupTap(hellos)
    except UnsupportedError as error:
        cause = str(error)
    if not may_be_packets:
        context.notice(
            f"{hook}: names: DNS can't be seen: {display(cause)}; -I {hook}:names:dns tries a packet socket"
        )
        return None
    try:
        tap = PacketTap(hellos)
    except UnsupportedError as error:
        context.notice(f"{hook}: names: they can't be seen passing: {display(cause)}; {display(str(error))}")
        return None
    context.notice(
        f"{hook}: names: only those of this network namespace are seen, by a packet socket: {display(cause)}"
    )
    return tap

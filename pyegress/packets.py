# SPDX-License-Identifier: MIT
"""Packets to connections: what opens one, which belong to a flow that was reported, and what filters hide.

TCP: each SYN once, however often it is sent again or logged. UDP and others: a flow (process, destination) at its
first packet, then at most once in a window with the number of packets since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import msgspec

from pyegress.attribute.lookup import Answer, Found, Query, Unknown
from pyegress.attribute.names import user_name
from pyegress.decode.address import Addresses
from pyegress.decode.event import PROTOCOLS
from pyegress.decode.packet import ACK, SYN, Packet
from pyegress.destinations import DestinationFilters, put_rule
from pyegress.filters import FilterOptions, ProcessFilters, RecordFilterOptions
from pyegress.kernel import interface_name
from pyegress.losses import Losses
from pyegress.namefilters import NameFilters
from pyegress.ownports import is_own
from pyegress.record import Connection, Process

TCP = 6
RECHECK_NS = 10_000_000
"""A socket that sends on is looked up again after this time: another may have got its port."""
SYNS = 65536
SYN_AGAIN_NS = 130_000_000_000
"""The last of Linux's six retransmissions comes 64 s after the one before (tcp_syn_retries in tcp(7))."""
_LINK_LOCAL = (b"\xfe\x80", b"\xff\x02", b"\0" * 10 + b"\xff\xff\xa9\xfe")


class Sighting(NamedTuple):
    """A packet, and what was seen with it."""

    packet: Packet
    ts: int
    """ns since the epoch."""
    clock_ns: int
    """The same moment on the clock that windows are measured by."""
    ifindex: int = 0
    """The interface it leaves by."""
    uid: int | None = None
    gid: int | None = None
    """Owner of the socket, as netfilter tells it."""
    local: bool = True
    """Of a socket in this network namespace; False: forwarded."""
    ifname: str | None = None
    """Name of the interface where there is no index for it."""

    def query(self) -> Query:
        """Whose packet is it?"""
        packet = self.packet
        return Query(
            packet.ip_version,
            packet.protocol,
            packet.src,
            packet.dst,
            packet.sport,
            packet.dport,
            self.ifindex,
            self.uid,
            self.gid,
            self.local,
        )


class _Flow(msgspec.Struct):
    """A process and a destination, within a window."""

    until_ns: int
    hidden_by: int | None
    last: Connection
    more: int = 0
    """Packets since it was last reported; of a hidden one none are kept."""
    last_ts: int = 0


class _Checked(NamedTuple):
    flow: _Flow
    until_ns: int


class PacketFlows:
    """For one thread. `own_pid` never connects; `recheck_ns` None: nothing changes hands, as in a file."""

    def __init__(
        self,
        hook: str,
        options: FilterOptions,
        losses: Losses,
        own_pid: int | None = None,
        netns: int | None = None,
        recheck_ns: int | None = RECHECK_NS,
    ) -> None:
        self.destinations = DestinationFilters(options)
        self.processes = ProcessFilters(options)
        self.names = NameFilters(options)
        """For who gives the records names."""
        self._hook = hook
        self._window_ns = options.window
        self._capacity = options.flows
        self._losses = losses
        self._own_pid = own_pid
        self._netns = netns
        self._recheck_ns = recheck_ns if recheck_ns is not None else options.window
        self._addresses = Addresses()
        # Ordered, because taking the first of a plain dict passes over all that were taken before.
        self._syns: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._repeated_syns = 0
        self._flows: OrderedDict[tuple[object, ...], _Flow] = OrderedDict()
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()
        self._due: list[Connection] = []
        self._next: tuple[DestinationFilters, ProcessFilters, NameFilters, Callable[[], None]] | None = None
        # Held while filters change hands, so that no hit is counted twice or not at all.
        self._counting = Lock()

    def change(self, options: RecordFilterOptions, done: Callable[[], None]) -> None:
        """Filter by others from the next `due` on, which calls `done`; from any thread.

        Raises UsageError for a pattern that can't be.
        """
        self._next = DestinationFilters(options), ProcessFilters(options), NameFilters(options), done

    def opens(self, packet: Packet) -> bool:
        """Whether this packet opens a connection or belongs to a flow: not what follows a TCP SYN."""
        if packet.protocol != TCP:
            return True
        flags = packet.tcp_flags
        return flags is not None and flags & (SYN | ACK) == SYN

    def wants(self, packet: Packet) -> bool:
        """Whether it passes the filters by destination; counts it where not."""
        return self.destinations.keep(packet.protocol, packet.dst, packet.dport)

    def is_repeat(self, sighting: Sighting) -> bool:
        """Whether it only adds to what was reported; then it is counted there."""
        packet = sighting.packet
        if packet.protocol == TCP:
            return self._is_repeated_syn(packet, sighting.clock_ns)
        return self.adds(packet.flow, sighting.ts, sighting.clock_ns)

    def adds(self, packed: bytes, ts: int, clock_ns: int) -> bool:
        """The same for a flow as `struct egress_packet` has it, of UDP or others."""
        known = self._checked.get(packed)
        if known is None or clock_ns >= known.until_ns or clock_ns >= known.flow.until_ns:
            return False
        self._count(known.flow, ts)
        return True

    def connection(
        self, sighting: Sighting, answer: Answer | None, verdict: str | None = None
    ) -> Connection | None:
        """The record to report; None where it is hidden or adds to a flow."""
        packet = sighting.packet
        process = self._process(sighting, answer)
        if self._is_own(process, sighting):
            return None
        hidden_by = self.processes.judge(process)
        if packet.protocol == TCP or not self._window_ns:
            if hidden_by is not None:
                self.processes.hits[hidden_by] += 1
                return None
            return self._record(sighting, answer, process, verdict)
        key = self._key(packet, process, sighting, verdict)
        flow = self._flows.get(key)
        if flow is not None and sighting.clock_ns < flow.until_ns:
            self._count(flow, sighting.ts)
            self._remember(packet.flow, flow, sighting.clock_ns)
            return None
        record = self._record(sighting, answer, process, verdict)
        if flow is not None and flow.more:
            record = msgspec.structs.replace(record, count=flow.more + 1)
        self._add(
            key, _Flow(sighting.clock_ns + self._window_ns, hidden_by, record), packet, sighting.clock_ns
        )
        if hidden_by is not None:
            self.processes.hits[hidden_by] += 1
            return None
        return record

    def due(self) -> list[Connection]:
        """Repeats of flows that others pushed out of the table, to be reported now."""
        others, self._next = self._next, None
        if others is not None:
            destinations, processes, names, done = others
            self._filter_by(destinations, processes, names)
            done()
        due, self._due = self._due, []
        return due

    def sweep(self, clock_ns: int | None) -> list[Connection]:
        """Repeats of flows whose window ended before, which are forgotten; all with None."""
        found = self.due()
        ended = [key for key, flow in self._flows.items() if clock_ns is None or flow.until_ns <= clock_ns]
        for key in ended:
            flow = self._flows.pop(key)
            if flow.more:
                found.append(_rest(flow))
        if clock_ns is None:
            self._checked.clear()
        return found

    def put_losses(self) -> None:
        """Counters into the Losses."""
        with self._counting:
            self._put_losses()

    def _put_losses(self) -> None:
        self.destinations.put(self._losses, self._hook)
        for label, hits in self.processes.counts().items():
            put_rule(self._losses, self._hook, label, hits)
        self.names.put(self._losses, self._hook)
        reason = "SYNs of connections that were reported already"
        self._losses.put("skipped", reason, self._repeated_syns, f"{self._hook} SYNs")

    def _filter_by(
        self, destinations: DestinationFilters, processes: ProcessFilters, names: NameFilters
    ) -> None:
        """Flows stay, but for those that were hidden and are no more."""
        with self._counting:
            self._put_losses()
            self._losses.keep(self._hook)
            self.destinations, self.processes, self.names = destinations, processes, names
        for flow in self._flows.values():
            hidden_by = processes.judge(flow.last.process)
            if hidden_by is None and flow.hidden_by is not None:
                flow.until_ns = 0
            elif hidden_by is not None and flow.hidden_by is None and flow.more:
                self._due.append(_rest(flow))
                flow.more = 0
            flow.hidden_by = hidden_by

    def _is_repeated_syn(self, packet: Packet, clock_ns: int) -> bool:
        # One attempt keeps its sequence number, whoever sends it again.
        key = (packet.flow, packet.tcp_seq)
        before_ns = self._syns.pop(key, None)
        if len(self._syns) >= SYNS:
            self._syns.popitem(last=False)
        self._syns[key] = clock_ns
        if before_ns is None or clock_ns - before_ns >= SYN_AGAIN_NS:
            return False
        self._repeated_syns += 1
        return True

    def _count(self, flow: _Flow, ts: int) -> None:
        if flow.hidden_by is None:
            flow.more += 1
            flow.last_ts = ts
        else:
            self.processes.hits[flow.hidden_by] += 1

    def _add(self, key: tuple[object, ...], flow: _Flow, packet: Packet, clock_ns: int) -> None:
        self._flows.pop(key, None)
        if len(self._flows) >= self._capacity:
            _, oldest = self._flows.popitem(last=False)
            if oldest.more:
                self._due.append(_rest(oldest))
            # What still refers to it must not count there.
            oldest.until_ns = 0
        self._flows[key] = flow
        self._remember(packet.flow, flow, clock_ns)

    def _remember(self, packed: bytes, flow: _Flow, clock_ns: int) -> None:
        self._checked.pop(packed, None)
        if len(self._checked) >= self._capacity:
            self._checked.popitem(last=False)
        self._checked[packed] = _Checked(flow, min(clock_ns + self._recheck_ns, flow.until_ns))

    def _key(
        self, packet: Packet, process: Process | None, sighting: Sighting, verdict: str | None
    ) -> tuple[object, ...]:
        who: tuple[object, ...]
        if process is None or process.pid is None:
            who = (packet.src, packet.sport, sighting.uid)
        else:
            who = (process.pid, process.start_ns, process.name, process.uid)
        return (*who, packet.protocol, packet.dst, packet.dport, sighting.ifindex, verdict)

    def _is_own(self, process: Process | None, sighting: Sighting) -> bool:
        if self._own_pid is None:
            return False
        if process is None or process.pid is None:
            return sighting.local and is_own(sighting.packet.sport)
        return process.pid == self._own_pid

    def _process(self, sighting: Sighting, answer: Answer | None) -> Process | None:
        if isinstance(answer, Found):
            return answer.process
        uid = _socket_uid(sighting, answer)
        if uid is None:
            return None
        reason = answer.reason if answer is not None else "not looked up"
        return _owner(uid, sighting.gid, reason)

    def _record(
        self, sighting: Sighting, answer: Answer | None, process: Process | None, verdict: str | None
    ) -> Connection:
        packet = sighting.packet
        attribution = None
        if isinstance(answer, Unknown):
            attribution = answer.reason
            self._losses.add("unattributed", attribution)
        elif process is not None:
            attribution = process.attribution
        ifname = None
        if packet.dst.startswith(_LINK_LOCAL):  # others don't depend on it
            ifname = sighting.ifname or interface_name(sighting.ifindex)
        return Connection(
            sighting.ts,
            self._hook,
            PROTOCOLS[packet.protocol],
            packet.ip_version,
            self._addresses[packet.dst] or ("::" if packet.ip_version == 6 else "0.0.0.0"),
            packet.dport,
            self._addresses[packet.src],
            packet.sport,
            netns=self._netns if sighting.local else (process.netns if process is not None else None),
            ifname=ifname,
            process=process,
            attribution=attribution,
            socket_uid=_socket_uid(sighting, answer),
            verdict=verdict,
        )


def _socket_uid(sighting: Sighting, answer: Answer | None) -> int | None:
    """As firewalls compare it, if netfilter tells; sock_diag's is another one after a chown of the socket."""
    return sighting.uid if sighting.uid is not None or answer is None else answer.uid


@lru_cache(maxsize=4096)
def _owner(uid: int, gid: int | None, reason: str) -> Process:
    """What is known where only the socket's owner is."""
    return Process(uid=uid, gid=gid, user=user_name(uid), attribution=reason)


def _rest(flow: _Flow) -> Connection:
    return msgspec.structs.replace(flow.last, ts=flow.last_ts, count=flow.more)

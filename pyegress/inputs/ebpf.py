# SPDX-License-Identifier: MIT
"""Connections seen by eBPF hooks in the kernel, filtered there, with the process that made them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pyegress.attribute.cgroup import walk
from pyegress.attribute.processes import PROGRAMS, ProcessTable
from pyegress.decode.details import DetailsDecoder
from pyegress.decode.event import EventDecoder
from pyegress.destinations import DestinationFilters, put_rule
from pyegress.errors import InputError, UnsupportedError
from pyegress.filters import FilterOptions, ProcessFilters
from pyegress.kernel import cgroup2_root, interface_name, may_trace_others
from pyegress.options import SizeBytes
from pyegress.plugin import Batch, Context, Input
from pyegress.prefixes import Verdict
from pyegress.record import ATTRIBUTED, Details, Process, Seen
from pyegress.session import BATCH, KINDS, AttachError, Session, Settings, explain

IDLE_MS = 100
BUSY_MS = 2
"""Records that follow within WAKE_NS of a wake-up don't wake us: the next look must come as soon."""
PENDING_NS = 2_000_000_000
"""A connect call returns within microseconds; after this long its return was missed."""
LEAST_SWEEP_NS = 1_000_000_000
_NEVER_NS = (1 << 63) - 1


def _help(text: str, ge: int | None = None, le: int | None = None) -> msgspec.Meta:
    return msgspec.Meta(description=text, ge=ge, le=le)


class EbpfOptions(FilterOptions, frozen=True, kw_only=True):
    """Options of the ebpf input."""

    attach: Annotated[
        Literal["auto", "fentry", "kprobe", "cgroup"],
        _help(
            "kind of hooks; auto takes the first that attaches, in this order; cgroup sees requests, not results"
        ),
    ] = "auto"
    ring: Annotated[SizeBytes, _help("ring buffer, rounded up to a power of two", ge=65536, le=1 << 30)] = (
        4 << 20
    )
    programs: Annotated[int, _help("programs remembered at a time", ge=64, le=1 << 20)] = PROGRAMS


class Ebpf(Input):
    """The input; see EbpfOptions."""

    name = "ebpf"
    summary = (
        "TCP connects and UDP flows of every process, by hooks on the kernel's connect and send functions "
        "(not raw sockets, ICMP, SCTP, or what the kernel sends without them, as WireGuard does)"
    )
    Options = EbpfOptions

    def __init__(self, options: EbpfOptions) -> None:
        self._options = options
        self._destinations = DestinationFilters(options)
        self._filters = ProcessFilters(options)
        self._settings = self._make_settings()
        self._warned = False
        self._session: Session | None = None
        self._stopping = False
        self._drained = False
        self._unfinished = 0

    def open(self, context: Context) -> None:
        """Attach; raises UnsupportedError with the one cause when nothing attaches."""
        self._context = context
        session = self._session = self._attach()
        if session.own_tgid != os.getpid():
            context.notice(
                "ebpf: running in a pid namespace: pids of processes outside of it are those of the host, "
                "and /proc here can't tell about them"
            )
        self._table = ProcessTable(
            session.forget_program, session.forget_cgroup, self._forbidden, programs=self._options.programs
        )
        self._details = DetailsDecoder(session.ffi)
        self._decoder = EventDecoder(
            session.ffi, self._table.resolve, Path("/proc/self/ns/net").stat().st_ino, interface_name
        )
        self._hide_cgroups()

    def read(self) -> Iterator[Batch]:
        """Batches until `stop`, then what is left in the ring and in the tables."""
        session = self._opened()
        sweep_ns = max(self._options.window, LEAST_SWEEP_NS)
        next_sweep_ns = _boot_ns() + sweep_ns
        busy = False
        while not self._stopping:
            records = session.read(BUSY_MS if busy else IDLE_MS)
            busy = len(records) > 0
            yield self._batch(records)
            now_ns = _boot_ns()
            if now_ns >= next_sweep_ns:
                next_sweep_ns = now_ns + sweep_ns
                yield from self._sweep(now_ns - self._options.window, now_ns - PENDING_NS)
        session.detach()
        while True:
            records = session.read(0)
            if not records and not session.details():
                break
            yield self._batch(records)
        yield from self._sweep(_NEVER_NS, _NEVER_NS)
        self._drained = True
        self.refresh_losses()

    def stop(self) -> None:
        """Make `read` drain and end."""
        self._stopping = True

    def close(self) -> None:
        """Detach."""
        if self._session:
            self.refresh_losses()
            self._session.close()
            self._session = None

    def refresh_losses(self) -> None:
        """Kernel counters into the Losses."""
        session = self._session
        if session is None:
            return
        put = self._context.losses.put
        counters = session.counters()
        lost_first = counters["lost_first"]
        put(
            "lost",
            "ebpf: ring buffer full (make it larger with -I ebpf:ring)",
            counters["lost_ring"] + lost_first,
        )
        put(
            "unfinished",
            "connects without source and result: the kernel skipped their return probe",
            counters["unfinished"] + self._unfinished,
        )
        put("lost", "ebpf: probes that the kernel skipped", session.misses())
        if self._drained and self._options.window:
            # Every datagram of a flow was reported, counted in a report, or went with an evicted flow.
            evicted = counters["datagrams"] - session.counted() - lost_first
            put("lost", "ebpf: repeats of flows pushed out of the table (-I ebpf:flows)", evicted)
        kernel_hits = session.rule_hits(self._settings.rules)
        first = self._first_process_rule
        names = ("protocol", "loopback", "port", "cidr")
        hidden = {name: counters[f"skipped_{name}"] for name in names}
        self._destinations.put(self._context.losses, self.name, kernel_hits[:first], hidden)
        for label, before, here in zip(
            self._filters.labels, kernel_hits[first:], self._filters.hits, strict=True
        ):
            put_rule(self._context.losses, self.name, label, before + here)

    def _batch(self, records: memoryview) -> Batch:
        for told in self._details.decode(self._opened().details()):
            self._table.add(told)
            # Told as an ancestor it has no cgroup: it is told again before its own first event, and judged then.
            if isinstance(told, Details) and told.seen.cgroup_id:
                self._hide(told.seen)
        # Anew each time: the clock may have been set.
        offset_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - _boot_ns()
        return self._judged(self._decoder.decode(records, offset_ns))

    def _judged(self, batch: Batch) -> Batch:
        kept = self._filters.apply(batch)
        if self._table.has_gaps:
            for connection in kept:
                if connection.process and connection.process.attribution not in ATTRIBUTED:
                    self._context.losses.add("unattributed", connection.process.attribution)
        return kept

    def _hide(self, seen: Seen) -> None:
        """Tell the kernel the verdict on a program and on its cgroup, so that it sends no more of what is hidden."""
        if not (self._filters.has_place_rules or self._filters.needs_verdicts):
            return
        process = self._table.resolve(seen)
        self._hide_cgroup(seen.cgroup_id, process)
        rule = self._filters.judge(process) if self._filters.needs_verdicts else None
        if rule is not None:
            self._opened().hide_program(seen, self._first_process_rule + rule)

    def _hide_cgroup(self, cgroup_id: int, process: Process) -> None:
        rule = self._filters.judge_place(process) if self._filters.has_place_rules else None
        if rule is not None:
            self._opened().hide_cgroup(cgroup_id, self._first_process_rule + rule)

    def _hide_cgroups(self) -> None:
        """Judge those that are there already, so that none of their events is sent."""
        root = cgroup2_root() if self._filters.has_place_rules else None
        for cgroup_id, path in walk(root) if root else ():
            self._hide_cgroup(cgroup_id, self._table.of_cgroup(path))

    def _forbidden(self) -> None:
        if not self._warned and not may_trace_others():
            self._warned = True
            self._context.notice(
                "ebpf: /proc does not show other users' programs: command lines of parents, and what was not in "
                "memory, stay unknown; give CAP_SYS_PTRACE, or mount /proc without hidepid"
            )

    def _sweep(self, flows_before_ns: int, pending_before_ns: int) -> Iterator[Batch]:
        session = self._opened()
        takes: list[tuple[Callable[[int], memoryview], int]] = [(session.take_pending, pending_before_ns)]
        if self._options.window:
            takes.append((session.take_flows, flows_before_ns))
        for take, before_ns in takes:
            while before_ns > 0:
                records = take(before_ns)
                batch = self._decoder.decode(records, time.clock_gettime_ns(time.CLOCK_REALTIME) - _boot_ns())
                if take == session.take_pending:
                    self._unfinished += len(batch)
                yield self._judged(batch)
                if len(batch) < BATCH:
                    break

    def _opened(self) -> Session:
        if self._session is None:
            raise InputError("ebpf: not open")
        return self._session

    def _attach(self) -> Session:
        wanted = self._options.attach
        failures: list[AttachError] = []
        for kind in KINDS if wanted == "auto" else (wanted,):
            try:
                session = Session(kind, self._settings)
            except AttachError as error:
                failures.append(error)
                self._context.debug(f"ebpf: {error}\n{error.log}")
                continue
            self._context.debug(f"ebpf: {kind}: {', '.join(session.hooks)}")
            for missing in session.missing:
                self._context.notice(f"ebpf: left out: {missing}")
            if kind == "cgroup":
                self._context.notice(
                    "ebpf: cgroup hooks: requests are seen, not their results; connected UDP is seen at its connect"
                )
            return session
        tried = "; ".join(map(str, failures))
        raise UnsupportedError(f"ebpf: nothing could be attached: {explain(failures)} ({tried})")

    def _make_settings(self) -> Settings:
        options = self._options
        destinations = self._destinations
        self._first_process_rule = first = len(destinations)
        in_kernel = self._filters.kernel
        return Settings(
            window_ns=options.window,
            ring_bytes=options.ring,
            flows=options.flows,
            report_loopback=options.allow_loopback,
            skip_tcp=bool(options.protocol) and "tcp" not in options.protocol,
            skip_udp=bool(options.protocol) and "udp" not in options.protocol,
            ports=destinations.ports,
            only_ports=bool(options.only_port),
            cidrs=destinations.cidrs,
            only_cidrs=bool(options.only_cidr),
            comms={comm: _moved(verdict, first) for comm, verdict in in_kernel.comms.items()},
            uids={uid: _moved(verdict, first) for uid, verdict in in_kernel.uids.items()},
            outside_comm=None if in_kernel.outside_comm is None else first + in_kernel.outside_comm,
            outside_uid=None if in_kernel.outside_uid is None else first + in_kernel.outside_uid,
            hide_cgroups=self._filters.has_place_rules,
            hide_programs=self._filters.needs_verdicts,
            programs=options.programs,
            rules=first + len(self._filters.labels),
        )


def _moved(verdict: Verdict, first: int) -> Verdict:
    return verdict._replace(rule=first + verdict.rule)


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

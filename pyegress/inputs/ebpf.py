# SPDX-License-Identifier: MIT
"""Connections seen by eBPF hooks in the kernel, filtered there, with the process that made them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from pyegress import plugin
from pyegress.attribute.cgroup import walk
from pyegress.attribute.processes import PROGRAMS, ProcessTable
from pyegress.decode.details import DetailsDecoder
from pyegress.decode.event import EventDecoder
from pyegress.destinations import DestinationFilters, is_of_destination, put_destinations, put_rule
from pyegress.errors import InputError, UnsupportedError, UsageError
from pyegress.filters import FilterOptions, ProcessFilters, RecordFilterOptions
from pyegress.kernel import (
    FTRACE_ON,
    cgroup2_root,
    function_tracing_is_off,
    has_module,
    interface_name,
    may_trace_others,
    table_rights,
)
from pyegress.namefilters import NameFilters
from pyegress.options import SizeBytes, differing, keys
from pyegress.plugin import Batch, Context, Input
from pyegress.prefixes import Network, Verdict
from pyegress.privileges import LOOKING
from pyegress.record import ATTRIBUTED, Details, Process, Seen
from pyegress.session import (
    BATCH,
    CHANGEABLE,
    KINDS,
    MODULES,
    AttachError,
    Session,
    Settings,
    explain,
    rule_out,
)
from pyegress.tables import RuleNumbers, Step, Tables, hiding, moving, showing, without_only

if TYPE_CHECKING:
    from pyegress.names.namer import Namer

IDLE_MS = 250
"""Between two looks on a quiet host; each takes a tenth of a millisecond."""
BUSY_MS = 2
"""Records that follow within WAKE_NS of a wake-up don't wake us: the next look must come as soon."""
PENDING_NS = 2_000_000_000
"""A connect call returns within microseconds; after this long its return was missed."""
LEAST_SWEEP_NS = 1_000_000_000
_NEVER_NS = (1 << 63) - 1
_STEPS = 1024
"""Changes of the kernel's tables between two looks into the ring: some milliseconds."""
_BY_MODULE = {"sctp": "sctp", "af_packet": "packet"}
"""What options call it."""
_UNSEEN_BY_CGROUP = ("icmp", "sctp", "packet", "other")
_MOST_NETWORKS, _MOST_NAMES = CHANGEABLE["cidrs4"] // 2, CHANGEABLE["comms"] // 2
"""How many there may be after a change: those before have their place meanwhile."""


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


class _Rules:
    """The filters that some options ask for, and how the kernel is to apply them."""

    def __init__(self, options: EbpfOptions) -> None:
        self.options = options
        self.destinations = DestinationFilters(options)
        self.processes = ProcessFilters(options)
        self.names = NameFilters(options)
        self.labels = [*self.destinations.labels, *self.processes.labels]
        self.numbers: Sequence[int] = range(len(self.labels))
        """Of the kernel's counters."""

    def process_number(self, rule: int) -> int:
        """The kernel's number of a rule of the process filters."""
        return self.numbers[len(self.destinations) + rule]

    def tables(self, may_change: bool) -> Tables:
        """What the kernel's tables are to hold: what `only-` leaves out with it, if other rules may come."""
        ports: Mapping[int, Verdict] = {
            port: self._moved(verdict, 0) for port, verdict in self.destinations.ports.items()
        }
        cidrs: Mapping[Network, Verdict] = {
            network: self._moved(verdict, 0) for network, verdict in self.destinations.cidrs.items()
        }
        if may_change:
            ports, cidrs = without_only(
                ports, bool(self.options.only_port), cidrs, bool(self.options.only_cidr)
            )
        in_kernel, first = self.processes.kernel, len(self.destinations)
        return Tables(
            ports,
            cidrs,
            {comm: self._moved(verdict, first) for comm, verdict in in_kernel.comms.items()},
            {uid: self._moved(verdict, first) for uid, verdict in in_kernel.uids.items()},
        )

    def _moved(self, verdict: Verdict, first: int) -> Verdict:
        return verdict._replace(rule=self.numbers[first + verdict.rule])


class Ebpf(Input):
    """The input; see EbpfOptions.

    Where filters may be changed the kernel's switches must fit any: it looks at ports and networks in any case, and
    what `only-` rules for processes hide is judged here first.
    """

    name = "ebpf"
    summary = (
        "TCP connects and flows of UDP, ICMP and the rest of every process, by hooks on the kernel's connect and "
        "send functions (not what the kernel sends without them, as WireGuard does)"
    )
    Options = EbpfOptions

    changeable = frozenset(keys(RecordFilterOptions)) - {"allow-loopback", "protocol"}

    def __init__(self, options: EbpfOptions) -> None:
        self._options = options
        self._rules = _Rules(options)
        self._leaving: _Rules | None = None
        """Rules that are being replaced: what they hide stays hidden until the others are in force."""
        self._next: _Rules | None = None
        self._asked = options
        self._warned = False
        self._is_blind = False
        self._session: Session | None = None
        self._namer: Namer | None = None
        self._stopping = False
        self._drained = False
        self._unfinished = 0
        self._room = max(CHANGEABLE["rule_hits"], 2 * len(self._rules.labels))
        """Counters for rules, if others may come."""
        self._numbers = RuleNumbers(self._room)
        self._past_hits: Counter[str] = Counter()
        """What rules that were replaced had hidden here."""
        self._hidden_cgroups: set[int] = set()
        self.shared = table_rights()
        self.capabilities = LOOKING | self.shared
        # Held while rules change hands, so that no hit is counted twice or not at all; and for `_is_blind`.
        self._counting = Lock()

    def open(self, context: Context) -> None:
        """Attach; raises UnsupportedError with the one cause when nothing attaches."""
        self._context = context
        self._rules.numbers = self._numbers.assign(self._rules.labels, list)
        self._settings = self._make_settings(context.may_change)
        session = self._session = self._attach()
        if self._options.names != "none":
            # Here, because dnspython is a third of the start time, and an eighth of the memory.
            from pyegress.names.namer import Namer

            self._namer = Namer(self.name, self._options.names, context)
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
        wait_ms = IDLE_MS
        while not self._stopping:
            rules, self._next = self._next, None
            if rules is not None:
                yield from self._replace_rules(rules)
            records = session.read(wait_ms)
            # More slowly step by step: after traffic there often is more, or a stop.
            wait_ms = BUSY_MS if records else min(4 * wait_ms, IDLE_MS)
            yield self._batch(records)
            now_ns = _boot_ns()
            if now_ns >= next_sweep_ns:
                next_sweep_ns = now_ns + sweep_ns
                yield from self._sweep(False, now_ns - PENDING_NS)
                self._look_for_modules()
                self._look_at_tracing(session)
        session.detach()
        while True:
            records = session.read(0)
            if not records and not session.details():
                break
            yield self._batch(records)
        yield from self._sweep(True, _NEVER_NS)
        self._drained = True
        self.refresh_losses()

    def stop(self) -> None:
        """Make `read` drain and end."""
        self._stopping = True

    def change(self, options: plugin.Options) -> None:
        """Have the thread in `read` change filters, in the kernel's tables and here."""
        if not isinstance(options, EbpfOptions) or options == self._asked:
            return
        rules = _Rules(options)
        in_kernel = rules.processes.kernel
        for count, most, what in (
            (len(rules.labels), self._room // 2, "filters"),
            (len(rules.destinations.cidrs), _MOST_NETWORKS, "networks"),
            (max(len(in_kernel.comms), len(in_kernel.uids)), _MOST_NAMES, "names or users"),
        ):
            if count > most:
                raise UsageError(f"ebpf: {count} {what}: more than {most} at a change need a restart")
        self._asked = options
        self._next = rules

    def close(self) -> None:
        """Detach."""
        if self._session:
            self.refresh_losses()
            self._session.close()
            self._session = None
        if self._namer:
            self._namer.close()
            self._namer = None

    def refresh_losses(self) -> None:
        """Kernel counters into the Losses."""
        session = self._session
        if session is None:
            return
        self._look_at_tracing(session)
        if self._namer:
            self._namer.put_losses()
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
        put(
            "unreadable",
            "frames of AF_PACKET whose addresses are out of reach: of a ring, or larger than a page",
            counters["unreadable"],
        )
        if self._drained and self._options.window:
            # Every datagram of a flow was reported, counted in a report, or went with an evicted flow.
            evicted = counters["datagrams"] - session.counted() - lost_first
            put("lost", "ebpf: repeats of flows pushed out of the table (-I ebpf:flows)", evicted)
        names = ("protocol", "loopback", "port", "cidr")
        hidden = {name: counters[f"skipped_{name}"] for name in names}
        with self._counting:
            hits = Counter(self._numbers.totals(session.rule_hits(self._numbers.used)))
            for rules in (self._rules, self._leaving):
                hits.update(rules.processes.counts() + rules.names.counts() if rules else {})
            hits.update(self._past_hits)
        to_destinations = {label: count for label, count in hits.items() if is_of_destination(label)}
        put_destinations(self._context.losses, self.name, to_destinations, hidden)
        for label in hits.keys() - to_destinations.keys():
            put_rule(self._context.losses, self.name, label, hits[label])

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
        if self._leaving is not None:
            batch = self._leaving.processes.apply(batch)
        kept = self._rules.processes.apply(batch)
        if self._table.has_gaps:
            for connection in kept:
                if connection.process and connection.process.attribution not in ATTRIBUTED:
                    self._context.losses.add("unattributed", connection.process.attribution)
        # Records are here: what led to them had passed by then.
        named = self._namer.named(kept) if self._namer else kept
        if self._leaving is not None:
            named = self._leaving.names.apply(named)
        return self._rules.names.apply(named)

    def _hide(self, seen: Seen) -> None:
        """Tell the kernel the verdict on a program and on its cgroup, so that it sends no more of what is hidden."""
        filters = self._rules.processes
        if not (filters.has_place_rules or self._settings.hide_programs):
            return
        process = self._table.resolve(seen)
        self._hide_cgroup(seen.cgroup_id, process)
        rule = filters.judge(process) if self._settings.hide_programs else None
        if rule is not None:
            self._opened().hide_program(seen, self._rules.process_number(rule))

    def _hide_cgroup(self, cgroup_id: int, process: Process) -> None:
        rule = self._rules.processes.judge_place(process) if self._settings.hide_cgroups else None
        if rule is not None:
            self._opened().hide_cgroup(cgroup_id, self._rules.process_number(rule))
            self._hidden_cgroups.add(cgroup_id)

    def _hide_cgroups(self) -> None:
        """Judge those that are there already, so that none of their events is sent."""
        wanted = self._settings.hide_cgroups and self._rules.processes.has_place_rules
        root = cgroup2_root() if wanted else None
        for cgroup_id, path in walk(root) if root else ():
            self._hide_cgroup(cgroup_id, self._table.of_cgroup(path))

    def _replace_rules(self, rules: _Rules) -> Iterator[Batch]:
        """Put others in force, in the order that pyegress.tables asks for; yields what is seen meanwhile."""
        session, leaving = self._opened(), self._rules
        with self._counting:
            rules.numbers = self._numbers.assign(rules.labels, lambda: session.rule_hits(self._numbers.used))
            self._leaving, self._rules = leaving, rules
        old, new = leaving.tables(True), rules.tables(True)
        if not self._settings.comms:
            old, new = old._replace(comms={}), new._replace(comms={})
        if not self._settings.uids:
            old, new = old._replace(uids={}), new._replace(uids={})
        were_hidden, self._hidden_cgroups = self._hidden_cgroups, set()
        yield from self._take_steps(hiding(old, new))
        self._hide_cgroups()
        yield from self._take_steps(moving(old, new))
        yield from self._catch_up()
        with self._counting:
            self._past_hits.update(leaving.processes.counts() + leaving.names.counts())
            self._leaving = None
        yield from self._take_steps(showing(old, new))
        for cgroup_id in were_hidden - self._hidden_cgroups:
            session.show_cgroup(cgroup_id)
        # Those hidden by a verdict are judged anew, and those to be hidden too.
        self._table.have_all_told_again()
        changed = differing(leaving.options, rules.options)
        self._context.tell(f"ebpf: changed: {', '.join(changed)}")

    def _take_steps(self, steps: Iterator[Step]) -> Iterator[Batch]:
        session = self._opened()
        while some := list(islice(steps, _STEPS)):
            for step in some:
                session.step(step)
            session.decide_anew()
            yield self._batch(session.read(0))

    def _catch_up(self) -> Iterator[Batch]:
        """What was in the ring by now, which was let through by the tables as they were."""
        session = self._opened()
        left = self._options.ring
        while left > 0:
            records = session.read(0)
            if not records and not session.details():
                break
            left -= len(records) or 1
            yield self._batch(records)

    def _forbidden(self) -> None:
        if not self._warned and not may_trace_others():
            self._warned = True
            self._context.notice(
                "ebpf: /proc does not show other users' programs: command lines of parents, and what was not in "
                "memory, stay unknown; give CAP_SYS_PTRACE, or mount /proc without hidepid"
            )

    def _sweep(self, all_flows: bool, pending_before_ns: int) -> Iterator[Batch]:
        session = self._opened()
        for batch in self._taken(partial(session.take_pending, pending_before_ns)):
            self._unfinished += len(batch)
            yield self._judged(batch)
        if self._options.window:
            for batch in self._taken(partial(session.take_flows, all_flows)):
                yield self._judged(batch)

    def _taken(self, take: Callable[[], memoryview]) -> Iterator[Batch]:
        while batch := self._decoder.decode(take(), time.clock_gettime_ns(time.CLOCK_REALTIME) - _boot_ns()):
            yield batch
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
                if wanted == "auto":
                    rule_out(kind)
                session = Session(kind, self._settings)
            except AttachError as error:
                failures.append(error)
                self._context.debug(f"ebpf: {error}\n{error.log}")
                continue
            self.hooks = kind
            self._context.debug(f"ebpf: {kind}: {', '.join(session.hooks)}")
            for missing in session.missing:
                self._context.notice(f"ebpf: left out: {missing}")
            self._say_unseen(session)
            if kind == "cgroup":
                self._context.notice(
                    "ebpf: cgroup hooks: requests are seen, not their results; connected UDP is seen at its connect"
                )
            return session
        tried = "; ".join(map(str, failures))
        raise UnsupportedError(f"ebpf: nothing could be attached: {explain(failures)} ({tried})")

    def _say_unseen(self, session: Session) -> None:
        """Of what was asked for by name: by default what isn't there is nobody's to miss."""
        asked = self._options.protocol
        if session.kind == "cgroup":
            for name in dict.fromkeys(asked):
                if name in _UNSEEN_BY_CGROUP:
                    self._context.notice(f"ebpf: protocol:{name} is not seen by cgroup hooks")
        for function in session.absent:
            module = MODULES[function]
            if _BY_MODULE[module] in asked:
                self._context.notice(
                    f"ebpf: protocol:{_BY_MODULE[module]} is not seen: the kernel's module {module} is not loaded: "
                    f"modprobe {module}, then start again"
                )

    def _look_for_modules(self) -> None:
        """A module that is loaded meanwhile has no hook, and then that matters."""
        session = self._opened()
        for function in list(session.absent):
            module = MODULES[function]
            if has_module(module):
                session.absent.remove(function)
                self._context.notice(
                    f"ebpf: the kernel's module {module} was loaded after the start: what it connects is not seen "
                    "until pyegress is started again"
                )

    def _look_at_tracing(self, session: Session) -> None:
        """Say when the kernel stops calling hooks that are attached, and when it calls them again; from any thread."""
        if session.kind == "cgroup":
            return
        with self._counting:
            is_off = function_tracing_is_off()
            has_changed, self._is_blind = is_off != self._is_blind, is_off
        if not has_changed:
            return
        if is_off:
            self._context.notice(f"ebpf: nothing is seen: {FTRACE_ON}")
        else:
            self._context.tell("ebpf: function tracing is on again: what was not seen before is not counted")

    def _make_settings(self, may_change: bool) -> Settings:
        options, filters = self._options, self._rules.processes
        tables, in_kernel = self._rules.tables(may_change), filters.kernel
        number = self._rules.process_number
        return Settings(
            window_ns=options.window,
            ring_bytes=options.ring,
            flows=options.flows,
            report_loopback=options.allow_loopback,
            wants=tuple(dict.fromkeys(options.protocol)),
            ports=dict(tables.ports),
            only_ports=bool(options.only_port) and not may_change,
            cidrs=dict(tables.cidrs),
            only_cidrs=bool(options.only_cidr) and not may_change,
            comms=dict(tables.comms),
            uids=dict(tables.uids),
            outside_comm=None
            if in_kernel.outside_comm is None or may_change
            else number(in_kernel.outside_comm),
            outside_uid=None
            if in_kernel.outside_uid is None or may_change
            else number(in_kernel.outside_uid),
            hide_cgroups=filters.has_place_rules,
            hide_programs=filters.needs_verdicts or may_change,
            programs=options.programs,
            rules=self._room if may_change else len(self._rules.labels),
            may_change=may_change,
        )


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

# SPDX-License-Identifier: MIT
"""Connections that netfilter asks about: let through, dropped or refused by process, and recorded with the verdict."""

from __future__ import annotations

import os
import select
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from msgspec import Meta

from pyegress import plugin
from pyegress.attribute.lookup import Answer, Found, Unknown
from pyegress.attribute.searcher import Searcher
from pyegress.decode.packet import Packet, PacketDecoder, Unreadable
from pyegress.destinations import is_loopback
from pyegress.errors import InputError, UsageError
from pyegress.escape import display
from pyegress.names.segment import DNS_PORT
from pyegress.netfilter.messages import Queued, may_leave
from pyegress.netfilter.queue import Queue
from pyegress.netfilter.refusal import MARK, Refuser
from pyegress.observer import change_flows, once_each, open_namer, open_searcher, sighting_of
from pyegress.options import DurationNs, Queues, SizeBytes, keys
from pyegress.packets import TCP, PacketFlows, Sighting
from pyegress.plugin import Batch, Context, Input
from pyegress.policy import Policy, PolicyOptions
from pyegress.privileges import LOOKING, Capability
from pyegress.record import Connection, Process

if TYPE_CHECKING:
    from pyegress.names.namer import Namer

IDLE_MS = 100
SWEEP_NS = 1_000_000_000
MOST_QUEUES = 256
REMEMBERED = 65536
"""Verdicts on TCP connections that are kept for packets that follow the first."""
LATE = Unknown("not found in time")
_ICMP_PROTOCOLS = (1, 58)
_POLICY = "nfqueue policy"
"""Whose counters those of a policy are."""
_RST = 4


class NfqueueOptions(PolicyOptions, frozen=True, kw_only=True):
    """Options of the nfqueue input."""

    queue: Annotated[
        Queues, Meta(description="queue that the rules hand packets to, or a range such as 0-3")
    ] = Queues(0, 0)
    timeout: Annotated[
        DurationNs, Meta(description="time to find a process; then the default verdict", ge=1_000_000)
    ] = 1_000_000_000
    length: Annotated[
        int,
        Meta(
            description="packets that may wait in a queue; with fail-open buffer is the limit",
            ge=1,
            le=1 << 20,
        ),
    ] = 4096
    fail_open: Annotated[
        bool, Meta(description="let packets through that find a queue full, instead of dropping them")
    ] = False
    buffer: Annotated[
        SizeBytes, Meta(description="receive buffer of each netlink socket", ge=65536, le=1 << 30)
    ] = 8 << 20


class _Waiting(NamedTuple):
    """A packet whose process is being looked for."""

    queue: Queue
    queued: Queued
    sighting: Sighting
    deadline_ns: int


class _Served(NamedTuple):
    packets: int
    clock_ns: int
    """Monotonic."""


class Nfqueue(Input):
    """The input; see NfqueueOptions."""

    name: ClassVar[str] = "nfqueue"
    summary: ClassVar[str] = (
        "packets that iptables' NFQUEUE target or nft's `queue` asks about; accepts, drops or rejects them by process "
        "(rules: `pyegress rules-for nfqueue`)"
    )
    Options: ClassVar[type[plugin.Options]] = NfqueueOptions
    changeable: ClassVar[frozenset[str]] = frozenset(keys(PolicyOptions)) - {
        "quiet",
        "window",
        "flows",
        "names",
    }
    # The kernel asks for NET_ADMIN at each verdict.
    capabilities = LOOKING | {Capability.NET_ADMIN, Capability.NET_RAW, Capability.SYS_ADMIN}
    # `change` opens raw sockets with a mark where a policy comes to refuse.
    shared = frozenset({Capability.NET_ADMIN, Capability.NET_RAW})

    def __init__(self, options: NfqueueOptions) -> None:
        if options.queue.last - options.queue.first >= MOST_QUEUES:
            raise UsageError(f"nfqueue:queue:{options.queue}: must be at most {MOST_QUEUES} queues")
        self._options = options
        self._policy = _policy(options)
        self._next: Policy | None = None
        # Held while policies change hands, so that no verdict is counted twice or not at all.
        self._counting = Lock()
        self._flows: PacketFlows | None = None
        self._searcher: Searcher[int] | None = None
        self._namer: Namer | None = None
        self._queues: list[Queue] = []
        self._refuser: Refuser | None = None
        self._stopping = False
        self._waiting: dict[int, _Waiting] = {}
        self._order: deque[int] = deque()
        self._asked = 0
        # Ordered, because taking the first of a plain dict passes over all that were taken before.
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        self._batch: list[Connection] = []
        self._own_pid = os.getpid()

    def open(self, context: Context) -> None:
        """Bind every queue; raises UnsupportedError or InputError with the number of the one that can't be."""
        self._context = context
        self._notice = once_each(self.name, context)
        options = self._options
        self._decoder = PacketDecoder()
        netns = Path("/proc/self/ns/net").stat().st_ino
        self._flows = PacketFlows(self.name, options, context.losses, netns=netns)
        self._refuser = Refuser() if self._policy.default == "reject" else None
        # Before the queues: what they hold from then on waits for us.
        self._searcher = open_searcher(self.name, context)
        self._namer = open_namer(self.name, options, context)
        for number in range(options.queue.first, options.queue.last + 1):
            self._queues.append(Queue(number, options.length, options.buffer, options.fail_open))
        self._unseen = "let through unseen (fail-open)" if options.fail_open else "dropped by the kernel"
        context.notice(
            f"nfqueue: default verdict: {self._policy.default}; packets that find the queue full: {self._unseen}"
        )
        if self._policy.default == "accept" and self._policy.labels:
            context.notice(
                "nfqueue: nothing is stopped: what no rule allows is accepted too (-I nfqueue:default:reject or drop)"
            )

    def read(self) -> Iterator[Batch]:
        """Batches until `stop`; every packet that was taken has a verdict by then."""
        flows, searcher = self._flows, self._searcher
        if flows is None or searcher is None:
            raise InputError("nfqueue: not open")
        poll = select.poll()
        for queue in self._queues:
            poll.register(queue.fileno(), select.POLLIN)
        poll.register(searcher.fileno(), select.POLLIN)
        next_sweep_ns = 0
        while not self._stopping:
            poll.poll(self._patience_ms())
            self._change_policy()
            clock_ns = self._serve().clock_ns
            yield self._named(self._taken())
            yield self._named(flows.due())
            if clock_ns >= next_sweep_ns:
                next_sweep_ns = clock_ns + SWEEP_NS
                yield self._named(flows.sweep(clock_ns))
        for queue in self._queues:
            queue.stop_filling(self._policy.default == "accept")
        while self._serve().packets or self._waiting:
            select.select([searcher], [], [], self._patience_ms() / 1000 if self._waiting else 0)
        yield self._named(self._taken())
        yield self._named(flows.sweep(None))

    def stop(self) -> None:
        """Make `read` give the last verdicts and end."""
        self._stopping = True

    def change(self, options: plugin.Options) -> None:
        """Judge by another policy, whose file is read again; connections that have a verdict keep it."""
        assert isinstance(options, NfqueueOptions)
        before, flows = self._options, self._flows
        if options == before and not options.policy:
            return
        policy = _policy(options)
        if policy.default == "reject" and flows is not None and self._refuser is None:
            self._refuser = Refuser()
        self._options = options
        if flows is None:
            self._policy = policy
            return
        self._next = policy
        change_flows(flows, self.name, before, options, self._context)

    def close(self) -> None:
        """Unbind; packets that still wait get the default verdict."""
        for waiting in self._waiting.values():
            waiting.queue.verdict(waiting.queued.packet_id, self._policy.default == "accept")
        self._waiting.clear()
        while self._queues:
            self._queues.pop().close()
        if self._searcher is not None:
            self._searcher.close()
            self._searcher = None
        if self._namer is not None:
            self._namer.close()
            self._namer = None
        if self._refuser is not None:
            self._refuser.close()
            self._refuser = None

    def refresh_losses(self) -> None:
        """Counters of queues and rules into the Losses."""
        if self._flows is None or not self._queues:
            return
        put = self._context.losses.put
        for queue in self._queues:
            found = queue.statistics()
            name = f"nfqueue: queue {queue.number}"
            full = "dropped by the kernel, the queue was full (-I nfqueue:length)"
            put("lost", f"{name}: {full}", found.dropped_full)
            put("lost", f"{name}: {self._unseen}, the buffer was full (-I nfqueue:buffer)", queue.unseen)
            put("failed", f"{name}: verdicts that the kernel did not take", queue.unheard)
            put("overruns", f"{name}: times that the receive buffer was full", queue.overruns)
            put("unreadable", f"{name}: malformed netlink messages", queue.malformed)
        with self._counting:
            self._policy.put_losses(self._context.losses, _POLICY)
        if self._refuser is not None:
            put("lost", "nfqueue: refusals that could not be sent", self._refuser.failed)
        self._flows.put_losses()
        if self._namer is not None:
            self._namer.put_losses()

    def _change_policy(self) -> None:
        policy, self._next = self._next, None
        if policy is None:
            return
        with self._counting:
            self._policy.put_losses(self._context.losses, _POLICY)
            self._context.losses.keep(_POLICY)
            self._policy = policy
        self._context.tell(f"nfqueue: another policy; default verdict: {policy.default}")

    def _patience_ms(self) -> int:
        if not self._order:
            return IDLE_MS
        first = self._waiting.get(self._order[0])
        left_ns = first.deadline_ns - time.monotonic_ns() if first else 0
        return max(0, min(IDLE_MS, -(-left_ns // 1_000_000)))

    def _named(self, batch: Batch) -> Batch:
        return self._flow.names.apply(self._namer.named(batch)) if self._namer is not None else batch

    def _taken(self) -> Batch:
        batch, self._batch = self._batch, []
        return batch

    def _serve(self) -> _Served:
        """Take packets and answers that have come, and give up on what waited too long."""
        clock_ns, now_ns = time.monotonic_ns(), time.time_ns()
        packets = 0
        for queue in self._queues:
            for queued in queue.receive():
                packets += 1
                try:
                    self._see(queue, queued, clock_ns, now_ns)
                except Exception as error:
                    self._fail(queue, queued, error)
                # Many take long, and those before them must not wait for all.
                if self._waiting:
                    self._settle()
        return _Served(packets, self._settle())

    def _settle(self) -> int:
        """Take answers, and give up on what waited too long; the monotonic time, ns."""
        for token, answer in self._search.answers():
            self._answer(token, answer)
        clock_ns = time.monotonic_ns()
        while self._order:
            waiting = self._waiting.get(self._order[0])
            if waiting is not None:
                if waiting.deadline_ns > clock_ns:
                    break
                self._answer(self._order[0], LATE)
            self._order.popleft()
        return clock_ns

    def _see(self, queue: Queue, queued: Queued, clock_ns: int, now_ns: int) -> None:
        packet = self._decoder.decode(queued.payload)
        if isinstance(packet, Unreadable):
            self._context.losses.add("unreadable", f"nfqueue: packets {packet.value}")
            self._notice(f"packets {packet.value} are counted and get the default verdict")
            self._give(queue, queued, self._policy.default)
        elif _is_refusal(queued, packet) or self._is_exempt(packet):
            queue.verdict(queued.packet_id, True)
        elif not may_leave(queued):
            self._context.losses.add("skipped", "nfqueue: packets of a chain that nothing leaves by")
            self._notice(
                "a rule queues PREROUTING or INPUT: those packets get the default verdict; queue OUTPUT "
                "(see `pyegress rules-for nfqueue`)"
            )
            self._give(queue, queued, self._policy.default)
        elif not self._flow.opens(packet) and (known := self._recall(packet.flow)) is not None:
            self._give(queue, queued, known)
        else:
            sighting = sighting_of(queued, packet, clock_ns, now_ns)
            self._asked += 1
            answer = self._search.ask(self._asked, sighting.query())
            if answer is not None:
                self._decide(queue, queued, sighting, answer)
            else:
                self._waiting[self._asked] = _Waiting(
                    queue, queued, sighting, clock_ns + self._options.timeout
                )
                self._order.append(self._asked)

    def _is_exempt(self, packet: Packet) -> bool:
        """Loopback is let through unasked, unless it is to be reported."""
        if self._options.allow_loopback or not is_loopback(packet.dst):
            return False
        if self._flow.opens(packet):
            self._flow.wants(packet)
        return True

    @property
    def _flow(self) -> PacketFlows:
        assert self._flows is not None
        return self._flows

    @property
    def _search(self) -> Searcher[int]:
        assert self._searcher is not None
        return self._searcher

    def _answer(self, token: int, answer: Answer) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return
        try:
            self._decide(waiting.queue, waiting.queued, waiting.sighting, answer)
        except Exception as error:
            self._fail(waiting.queue, waiting.queued, error)

    def _decide(self, queue: Queue, queued: Queued, sighting: Sighting, answer: Answer) -> None:
        process = answer.process if isinstance(answer, Found) else None
        packet, flows = sighting.packet, self._flow
        if process is not None and process.pid == self._own_pid:
            queue.verdict(queued.packet_id, True)
            return
        if packet.dport == DNS_PORT and packet.sport and process is not None and self._namer is not None:
            self._namer.asks(packet.src, packet.sport, packet.dst, process.pid or 0)
        names = partial(self._names_of, packet.dst, process)
        decision = self._policy.judge(process, packet.protocol, packet.dst, packet.dport, names)
        self._give(queue, queued, decision.verdict)
        opens = flows.opens(packet)
        if packet.protocol == TCP and (opens or process is not None):
            # Also for what began before us: once it is closed nobody has its socket any more.
            before = self._remember(packet.flow, decision.verdict)
            # A SYN that is sent again can get another verdict.
            if opens and before in (None, decision.verdict) and flows.is_repeat(sighting):
                return
        if opens and flows.wants(packet):
            record = flows.connection(sighting, answer, decision.verdict)
            if record is not None:
                self._batch.append(record)

    def _names_of(self, dest: bytes, process: Process | None) -> Sequence[str]:
        asker = (process.pid if process is not None else None) or 0
        return self._namer.judged_by(dest, asker) if self._namer is not None else ()

    def _give(self, queue: Queue, queued: Queued, verdict: str) -> None:
        if verdict == "reject" and self._refuser is not None:
            self._refuser.refuse(queued.payload, queued.outdev or 0)
        queue.verdict(queued.packet_id, verdict == "accept")

    def _fail(self, queue: Queue, queued: Queued, error: Exception) -> None:
        """A packet without a verdict would hang its program."""
        self._context.losses.add("failed", f"nfqueue: {type(error).__name__}; default verdict")
        self._notice(f"a packet could not be judged: {type(error).__name__}: {display(str(error))}")
        queue.verdict(queued.packet_id, self._policy.default == "accept")

    def _remember(self, flow: bytes, verdict: str) -> str | None:
        """Keep the verdict on a TCP connection; the one before."""
        before = self._verdicts.pop(flow, None)
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.popitem(last=False)
        self._verdicts[flow] = verdict
        return before

    def _recall(self, flow: bytes) -> str | None:
        """The verdict that was kept; those not asked for longest are forgotten first."""
        verdict = self._verdicts.get(flow)
        if verdict is not None:
            self._verdicts.move_to_end(flow)
        return verdict


def _policy(options: NfqueueOptions) -> Policy:
    policy = Policy(options)
    if policy.uses_names and "dns" not in options.names.split(","):
        raise UsageError("nfqueue:allow-name: needs names; add -I nfqueue:names:dns")
    return policy


def _is_refusal(queued: Queued, packet: Packet) -> bool:
    """One of ours, which a rule queues again; whoever else may set marks must not get more than that past."""
    return queued.mark == MARK and (
        packet.protocol in _ICMP_PROTOCOLS or bool((packet.tcp_flags or 0) & _RST)
    )

# SPDX-License-Identifier: MIT
"""What an input that only watches packets does with each: filter, look its process up, make the record."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyegress.attribute.lookup import Answer, Lookup
from pyegress.attribute.searcher import Searcher
from pyegress.decode.packet import Packet
from pyegress.escape import display
from pyegress.filters import FilterOptions
from pyegress.kernel import cgroup2_root, may_trace_others
from pyegress.netfilter.messages import Logged, Queued, is_of_this_host
from pyegress.options import differing
from pyegress.packets import PacketFlows, Sighting
from pyegress.plugin import Batch, Context
from pyegress.record import Connection

if TYPE_CHECKING:
    from pyegress.names.namer import Namer

IDLE_MS = 100
SWEEP_NS = 1_000_000_000
LAST_ANSWERS_NS = 2_000_000_000
"""How long the end waits for processes that are still being looked for."""


class Observer:
    """For one thread; records come in the order in which their processes were found."""

    def __init__(self, hook: str, options: FilterOptions, context: Context) -> None:
        self.flows = PacketFlows(
            hook, options, context.losses, os.getpid(), Path("/proc/self/ns/net").stat().st_ino
        )
        self._hook = hook
        self._options = options
        self._context = context
        self._searcher: Searcher[Sighting] = open_searcher(hook, context)
        self._namer = open_namer(hook, options, context)
        self._batch: list[Connection] = []
        self._unopened = 0

    def batches(
        self,
        fileno: int,
        receive: Callable[[], int],
        stopped: Callable[[], bool],
        receive_rest: Callable[[], object] | None = None,
    ) -> Iterator[Batch]:
        """Records until it is stopped; `receive` has `see` called with what waits, and says the monotonic time, ns.

        `receive_rest` is called instead at the end, where `receive` takes only so much at a time.
        """
        poll = select.poll()
        poll.register(fileno, select.POLLIN)
        poll.register(self._searcher.fileno(), select.POLLIN)
        next_sweep_ns = 0
        while not stopped():
            poll.poll(IDLE_MS)
            clock_ns = receive()
            yield self._take()
            if clock_ns >= next_sweep_ns:
                next_sweep_ns = clock_ns + SWEEP_NS
                yield self._named(self.flows.sweep(clock_ns))
        (receive_rest or receive)()
        give_up_ns = time.monotonic_ns() + LAST_ANSWERS_NS
        yield self._take()
        while self._searcher.unanswered and time.monotonic_ns() < give_up_ns:
            select.select([self._searcher], [], [], IDLE_MS / 1000)
            yield self._take()
        unanswered = self._searcher.unanswered
        self._context.losses.add(
            "lost", f"{self._hook}: processes were still looked for at the end", unanswered
        )
        yield self._named(self.flows.sweep(None))

    def see(self, sighting: Sighting) -> None:
        """Take a packet."""
        packet, flows = sighting.packet, self.flows
        if not flows.opens(packet):
            self._unopened += 1
        elif flows.wants(packet) and not flows.is_repeat(sighting):
            answer = self._searcher.ask(sighting, sighting.query())
            if answer is not None:
                self._report(sighting, answer)

    def change(self, options: FilterOptions) -> None:
        """Filter by others; from any thread."""
        change_flows(self.flows, self._hook, self._options, options, self._context)
        self._options = options

    def put_losses(self) -> None:
        """Counters into the Losses."""
        reason = f"{self._hook}: TCP packets that open no connection"
        self._context.losses.put("skipped", reason, self._unopened)
        self.flows.put_losses()
        self._namer.put_losses()

    def close(self) -> None:
        """End the search."""
        self._searcher.close()
        self._namer.close()

    def _named(self, batch: Batch) -> Batch:
        return self.flows.names.apply(self._namer.named(batch))

    def _take(self) -> Batch:
        for sighting, answer in self._searcher.answers():
            self._report(sighting, answer)
        batch, self._batch = self._batch, []
        return self._named(batch + self.flows.due())

    def _report(self, sighting: Sighting, answer: Answer) -> None:
        record = self.flows.connection(sighting, answer)
        if record is not None:
            self._batch.append(record)


def change_flows(
    flows: PacketFlows, hook: str, before: FilterOptions, options: FilterOptions, context: Context
) -> None:
    """Have flows filter by others, and say which changed once it is so."""
    changed = ", ".join(differing(before, options))
    if changed:
        flows.change(options, lambda: context.tell(f"{hook}: changed: {changed}"))


def once_each(hook: str, context: Context) -> Callable[[str], None]:
    """Notices of an input, each text of which is said once."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            context.notice(f"{hook}: {text}")

    return say


def sighting_of(message: Logged | Queued, packet: Packet, clock_ns: int, now_ns: int) -> Sighting:
    """A packet with what netfilter told of it."""
    return Sighting(
        packet,
        message.ts_ns or now_ns,
        clock_ns,
        message.outdev or 0,
        message.uid,
        message.gid,
        is_of_this_host(message),
    )


def open_namer(hook: str, options: FilterOptions, context: Context) -> Namer:
    """What names the connections of an input."""
    # Here, because dnspython is a third of the start time, and lists of plugins need none of it.
    from pyegress.names.namer import Namer

    return Namer(hook, options.names, context)


def open_searcher(hook: str, context: Context) -> Searcher[Any]:
    """Look-ups for an input; raises UnsupportedError where the kernel doesn't tell of sockets."""
    say = once_each(hook, context)

    def forbidden() -> None:
        if not may_trace_others():
            say(
                "/proc does not show other users' processes: they stay unknown; give CAP_SYS_PTRACE, or mount "
                "/proc without hidepid"
            )

    def failed(error: Exception) -> None:
        say(f"processes could not be looked for: {type(error).__name__}: {display(str(error))}")

    return Searcher(Lookup(may_trace_others, forbidden, cgroup2_root()), failed)

# SPDX-License-Identifier: MIT
"""How many records per second of CPU time one core takes from the ring, decodes and writes as logfmt."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench import Table
from pyegress.attribute.processes import ProcessTable
from pyegress.decode.details import DetailsDecoder
from pyegress.decode.event import EventDecoder
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Context
from pyegress.session import Session, Settings

PER_RUN = 1024
RUNS = 5


def measure(quick: bool) -> Table:
    """Fill the ring without traffic, then time three ways of emptying it."""
    records = PER_RUN * (50 if quick else 200)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    session = Session("cgroup", Settings(synthesize=True, ring_bytes=64 << 20))
    losses = Losses()
    output = Logfmt(LogfmtOptions(file="/dev/null"))
    output.open(Context(losses, print, print))
    table = ProcessTable(session.forget_program, session.forget_cgroup, lambda: None)
    details = DetailsDecoder(session.ffi)
    session.synthesize(1)
    session.read(0)
    for told in details.decode(session.details()):
        table.add(told)
    decoder = EventDecoder(session.ffi, table.resolve, 0, lambda index: None)
    try:
        drain, decode, write = (
            _median_s(session, records, use)
            for use in (
                lambda raw: None,
                lambda raw: decoder.decode(raw, 0),
                lambda raw: output.write(decoder.decode(raw, 0)),
            )
        )
    finally:
        output.close()
        session.close()
        os.sched_setaffinity(0, cpus)

    def row(name: str, seconds: float, part: float) -> tuple[str, ...]:
        return (name, f"{records / seconds:,.0f}", f"{seconds / records * 1e9:,.0f}", f"{part / write:.0%}")

    return Table(
        f"Ring to user space on one core, {records:,} records, CPU time, median of {RUNS}",
        ("up to", "records/s", "ns/record", "of the whole"),
        [
            row("drained", drain, drain),
            row("Connection records", decode, decode - drain),
            row("logfmt lines", write, write - decode),
        ],
    )


def _median_s(session: Session, records: int, use: Callable[[memoryview], Any]) -> float:
    record_bytes = session.ffi.sizeof("struct egress_event")
    times = []
    for _ in range(RUNS):
        for _ in range(records // PER_RUN):
            session.synthesize(PER_RUN)
        taken = 0
        # CPU time: what else runs on the machine does not count.
        start = time.process_time()
        while raw := session.read(0):
            use(raw)
            taken += len(raw)
        times.append(time.process_time() - start)
        # Others' connections may be among them; fewer would mean a ring that was too small.
        if taken < records * record_bytes:
            raise RuntimeError(f"ring: {taken // record_bytes} of {records} records came out")
    return statistics.median(times)

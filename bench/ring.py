# SPDX-License-Identifier: MIT
"""How many records per second of CPU time one core takes from the ring, decodes and writes, and what the floor is."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench import Table, made
from pyegress.decode.event import EventDecoder
from pyegress.losses import Losses
from pyegress.outputs.json import Json, JsonOptions
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Batch, Context, Output
from pyegress.session import Session, Settings

PER_RUN = 1024
RUNS = 5
RING_BYTES = 64 << 20
_RING_BUFFER = "map_type:\t27"
"""BPF_MAP_TYPE_RINGBUF"""


class _Way(NamedTuple):
    """One way of emptying the ring."""

    name: str
    empty: Callable[[], tuple[int, float]]
    """Records taken, and the seconds of CPU time that it took."""


def measure(quick: bool) -> Table:
    """Fill the ring without traffic, then time each way of emptying it."""
    records = PER_RUN * (50 if quick else 200)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    session = Session("cgroup", Settings(synthesize=True, ring_bytes=RING_BYTES))
    try:
        with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as scratch:
            rows = [
                (way.name, _median_s(session, records, way) / records)
                for way in _ways(session, Path(scratch), _counter(Path(scratch)))
            ]
    finally:
        session.close()
        os.sched_setaffinity(0, cpus)
    return Table(
        f"Ring to user space on one core, {records:,} records, CPU time, median of {RUNS}",
        ("up to", "records/s", "ns/record"),
        [(name, f"{1 / each_s:,.0f}", f"{each_s * 1e9:,.0f}") for name, each_s in rows],
    )


def _ways(session: Session, scratch: Path, counter: Path) -> list[_Way]:
    # Made up, so that the length of lines doesn't depend on who started the benchmark.
    process = made.process()
    decoder = EventDecoder(session.ffi, lambda seen: process, 0, lambda index: None)

    def taking(use: Callable[[memoryview], object]) -> Callable[[], tuple[int, float]]:
        return lambda: _emptied(session, use)

    def writing(output: Output) -> Callable[[], tuple[int, float]]:
        return taking(lambda raw: output.write(decoder.decode(raw, made.TS)))

    logfmt = Logfmt(LogfmtOptions(file=str(scratch / "logfmt")))
    json = Json(JsonOptions(file=str(scratch / "json")))
    for output in logfmt, json:
        output.open(Context(Losses(), print, print))
    batch = made.connections()
    return [
        _Way("counted by C over libbpf", lambda: _counted(counter)),
        _Way("drained", taking(lambda raw: None)),
        _Way("Connection records", taking(lambda raw: decoder.decode(raw, made.TS))),
        _Way("the same, one read and one decode for each", lambda: _one_by_one(session, decoder)),
        _Way(f"logfmt lines in a file, {_line_bytes(logfmt, batch, scratch):,} bytes each", writing(logfmt)),
        _Way(f"JSON lines in a file, {_line_bytes(json, batch, scratch):,} bytes each", writing(json)),
    ]


def _line_bytes(output: Output, batch: Batch, scratch: Path) -> int:
    output.write(batch)
    return (scratch / output.name).stat().st_size // len(batch)


def _median_s(session: Session, records: int, way: _Way) -> float:
    times = []
    for _ in range(RUNS):
        for _ in range(records // PER_RUN):
            session.synthesize(PER_RUN)
        taken, spent = way.empty()
        times.append(spent)
        # Others' connections may be among them; fewer would mean a ring that was too small.
        if taken < records:
            raise RuntimeError(f"ring: {taken} of {records} records came out")
    return statistics.median(times)


def _emptied(session: Session, use: Callable[[memoryview], object]) -> tuple[int, float]:
    taken = 0
    # CPU time: what else runs on the machine does not count.
    start = time.process_time()
    while raw := session.read(0):
        use(raw)
        taken += len(raw)
    return taken // session.ffi.sizeof("struct egress_event"), time.process_time() - start


def _one_by_one(session: Session, decoder: EventDecoder) -> tuple[int, float]:
    """As it was before there were batches."""
    native, arena, view = session._lib, session._arena, session._view
    size = session.ffi.sizeof("struct egress_event")
    taken = 0
    start = time.process_time()
    while native.egress_read(session._self, 0, arena, 1):
        decoder.decode(view[:size], made.TS)
        taken += 1
    return taken, time.process_time() - start


def _counter(scratch: Path) -> Path:
    program = scratch / "count"
    source = Path(__file__).with_name("count.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, source, "-lbpf"], check=True)
    return program


def _counted(counter: Path) -> tuple[int, float]:
    ring = _ring_fd()
    done = subprocess.run([counter, str(ring)], pass_fds=[ring], capture_output=True, text=True, check=True)
    taken, spent_ns = map(int, done.stdout.split())
    return taken, spent_ns / 1e9


def _ring_fd() -> int:
    """The descriptor of our ring buffer: the one of its size."""
    for info in Path("/proc/self/fdinfo").iterdir():
        if info.exists() and _RING_BUFFER in (text := info.read_text()) and f":\t{RING_BYTES}\n" in text:
            return int(info.name)
    raise RuntimeError("ring: no descriptor of the ring buffer")

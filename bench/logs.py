# SPDX-License-Identifier: MIT
"""How long logs take to be written and read, beside a loop that only looks at each line."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench import Table
from pyegress.logs.reader import LogReader
from pyegress.losses import Losses
from pyegress.outputs.json import Json
from pyegress.outputs.logfmt import Logfmt
from pyegress.plugin import Batch, Context
from pyegress.record import Connection, Process

DESTINATIONS, PROCESSES = 50_000, 300
BATCH = 1000
ROUNDS = 3
START_NS = 1_700_000_000_123_456_789
GAP_NS = 86_400_123
"""A million lines in a day."""


def measure(quick: bool) -> Table:
    """Any process may have connected to any destination: hardly a line comes twice but for its time."""
    count = 20_000 if quick else 1_000_000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for output in Logfmt, Json:
            path = Path(folder, output.name)
            writing = min(_write(output, path, count) for _ in range(ROUNDS))
            rows.append(_row(f"write {output.name}", count, writing))
            rounds = [(_read(path, count), _only_lines(path)) for _ in range(ROUNDS)]
            rows.append(_row(f"read {output.name}", count, min(reading for reading, _ in rounds)))
            rows.append(_row("  only its lines", count, min(lines for _, lines in rounds)))
            rows.append(("  most memory", "", f"{_peak_kib(path) / 1024:.0f} MiB", ""))
    return Table(
        f"Logs of {count:,} connections: {DESTINATIONS:,} destinations, {PROCESSES} processes, CPU time",
        (f"best of {ROUNDS}", "seconds", "us a line", "lines/s"),
        rows,
    )


def _row(name: str, count: int, seconds: float) -> tuple[str, ...]:
    return name, f"{seconds:.2f}", f"{seconds / count * 1e6:.2f}", f"{count / seconds:,.0f}"


def _write(output: type[Any], path: Path, count: int) -> float:
    path.unlink(missing_ok=True)
    writer = output(output.Options(file=str(path)))
    writer.open(Context(Losses(), print, print))
    seconds = 0.0
    for batch in _batches(count):
        start = time.process_time()
        writer.write(batch)
        seconds += time.process_time() - start
    writer.close()
    return seconds


def _read(path: Path, count: int) -> float:
    losses = Losses()
    start = time.process_time()
    found = sum(len(batch) for batch in LogReader(losses).read(str(path)))
    seconds = time.process_time() - start
    if found != count or losses.lines():
        raise RuntimeError(f"logs: {found} of {count} lines: {losses.lines()}")
    return seconds


def _only_lines(path: Path) -> float:
    start = time.process_time()
    with path.open("rb") as file:
        for _ in file:
            pass
    return time.process_time() - start


def _peak_kib(path: Path) -> int:
    """Of a process that has done nothing else."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            for _ in LogReader(Losses()).read(str(path)):
                pass
            status = Path("/proc/self/status").read_text()
            os.write(writes, status.partition("VmHWM:")[2].split()[0].encode())
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as answer:
        peak = int(answer.read())
    os.waitpid(child, 0)
    return peak


def _batches(count: int) -> Iterator[Batch]:
    """The same in each run."""
    random = Random(1)
    init = Process(pid=1, name="systemd", exe="/usr/lib/systemd/systemd", user="root")
    processes = [_process(number, init) for number in range(PROCESSES)]
    targets = [
        (".".join(str(random.randrange(1, 224)) for _ in range(4)), random.choice((443, 80, 53)))
        for _ in range(DESTINATIONS)
    ]
    for begin in range(0, count, BATCH):
        yield [
            _connection(at, *random.choice(targets), random.choice(processes), random.randrange(32768, 61000))
            for at in range(begin, min(begin + BATCH, count))
        ]


def _connection(at: int, address: str, port: int, process: Process, src_port: int) -> Connection:
    return Connection(
        START_NS + at * GAP_NS,
        "ebpf",
        "udp" if port == 53 else "tcp",
        4,
        address,
        port,
        "192.168.1.229",
        src_port,
        netns=4026531840,
        process=process,
        tid=process.pid,
        attribution="kernel",
        socket_uid=process.uid,
    )


def _process(number: int, init: Process) -> Process:
    name = f"worker-{number}"
    manager = Process(
        pid=100 + number, name=f"manager-{number}", exe="/usr/bin/manager", user="root", parent=init
    )
    return Process(
        pid=1000 + number,
        start_ns=10**12 + number,
        comm=name,
        name=name,
        exe=f"/usr/bin/{name}",
        cmdline=f"/usr/bin/{name} --config /etc/worker/{number}.toml --verbose",
        uid=1000 + number % 7,
        gid=100,
        user=f"user{number % 7}",
        loginuid=1000,
        session_pid=900,
        session_name="bash",
        cgroup_id=5000 + number,
        cgroup=f"/system.slice/{name}.service",
        unit=f"{name}.service",
        slice="system.slice",
        netns=4026531840,
        pidns=4026531836,
        parent=manager,
    )

# SPDX-License-Identifier: MIT
"""What pushing to a real server costs at a steady rate, and whether memory stays flat, with the server and without."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from bench import Table, cpu_s
from bench.process import memory
from pyegress import cli, plugin, registry
from pyegress.plugin import Batch, Context, Input
from pyegress.record import Connection, Process
from tests.logserver import LogServer, free_port

RATE = 20_000
BATCH = 200
FULL_S, QUICK_S = 300, 20
WARM_PART = 5
"""In this part of the time caches fill, and the allocator finds out what it needs."""
LIMIT_S = 60.0


class SteadyOptions(plugin.Options, frozen=True, kw_only=True):
    """Nothing is said of each connection."""

    quiet: bool = True


class Steady(Input):
    """RATE records a second until it is stopped."""

    name = "ebpf"
    summary = "for the benchmark"
    Options = SteadyOptions

    def __init__(self, options: SteadyOptions) -> None:
        self._stopped = Event()

    def open(self, context: Context) -> None:
        pass

    def read(self) -> Iterator[Batch]:
        processes = [
            Process(pid=n, name=f"prog{n % 50}", exe=f"/usr/bin/prog{n % 50}", cmdline=f"prog{n % 50} --number {n}",
                    uid=n % 9, user=f"user{n % 9}", unit=f"prog{n % 50}.service", cgroup_id=n,
                    cgroup=f"/system.slice/prog{n % 50}.service", parent=Process(pid=1, name="systemd", user="root"))
            for n in range(1000)
        ]  # fmt: skip
        start, number = time.monotonic(), 0
        while not self._stopped.is_set():
            now = time.time_ns()
            yield [
                Connection(
                    now + n, "ebpf", "tcp", 4, f"198.51.100.{n % 251}", (443, 53, 80, 8080)[n % 4],
                    "192.0.2.7", n % 65536, process=processes[n % 1000], attribution="kernel",
                )
                for n in range(number, number + BATCH)
            ]  # fmt: skip
            number += BATCH
            self._stopped.wait(max(0.0, start + number / RATE - time.monotonic()))

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        pass


def measure(quick: bool) -> Table:
    """With a server that takes everything, and with none, until memory for what waits is full."""
    seconds = QUICK_S if quick else FULL_S
    with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as folder, LogServer(Path(folder)) as server:
        taken = _run(server.url, seconds)
        (counted,) = server.rates("* | stats count() rows")
    alone = _run(
        f"http://127.0.0.1:{free_port()}", seconds, "-O", "loki:flush-timeout:0", "-O", "loki:queue:1M"
    )
    return Table(
        f"pyegress run -o loki, {RATE:,} records/s offered for {seconds} s",
        ("server", "records", "lost", "CPU", f"RSS after {seconds // WARM_PART} s", "at the end", "most"),
        [(f"VictoriaLogs, which has {int(counted['value']):,}", *taken), ("none, queue of 1 MiB", *alone)],
    )


def _run(url: str, seconds: int, *words: str) -> tuple[str, ...]:
    command = [sys.executable, "-m", "bench.loki", "run", "-o", "loki", "-O", f"loki:url:{url}", *words]
    warm_s = seconds // WARM_PART
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(warm_s)
        before, cpu_before = memory(process.pid), cpu_s(process.pid)
        time.sleep(seconds - warm_s)
        after, cpu_after = memory(process.pid), cpu_s(process.pid)
        process.terminate()
        _, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"loki: {said}")
    lines = [line.split(": ", 1)[1] for line in said.splitlines() if ": " in line]
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("lost: "))
    records = next(int(line.split()[0].replace(",", "")) for line in lines if " connection" in line)
    return (
        f"{records:,}",
        f"{lost:,}",
        f"{(cpu_after - cpu_before) / (seconds - warm_s):.0%}",
        *(f"{kib / 1024:.1f} MiB" for kib in (before["VmRSS"], after["VmRSS"], after["VmHWM"])),
    )


if __name__ == "__main__":
    registry.INPUTS["ebpf"] = f"{__name__}:Steady"
    cli.main()

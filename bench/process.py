# SPDX-License-Identifier: MIT
"""How long `pyegress run --ebpf` takes until it observes, and how much memory it holds."""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench import Table, cpu_ns
from tests import traffic

FIRST_PORT, LAST_PORT = 40000, 60000
LIMIT_S = 60.0
STARTS = 5
IDLE_S = 20.0


def measure(quick: bool) -> Table:
    """Start it some times; the last one also gets real datagrams, each of them a new flow."""
    starts, spent = [], []
    for _ in range(STARTS - 1):
        with started() as (process, seconds):
            starts.append(seconds)
            spent.append(cpu_ns(process.pid))
    flows = 0
    with started() as (process, seconds):
        starts.append(seconds)
        ready = memory(process.pid)
        idle_s = IDLE_S / 4 if quick else IDLE_S
        before = cpu_ns(process.pid)
        time.sleep(idle_s)
        idle = (cpu_ns(process.pid) - before) / 1e9 / idle_s
        for _ in range(1 if quick else 5):
            traffic.run("udpports", "127.0.0.1", FIRST_PORT, LAST_PORT)
            flows += LAST_PORT - FIRST_PORT + 1
            _read_lines(process.stdout, LAST_PORT - FIRST_PORT + 1)
        after = memory(process.pid)
    return Table(
        "pyegress run --ebpf -o logfmt",
        ("", "value"),
        [
            (f"start to ready, median of {STARTS}", f"{statistics.median(starts) * 1000:.0f} ms"),
            ("CPU time of that", f"{statistics.median(spent) / 1e6:.0f} ms"),
            (f"CPU in {idle_s:.0f} s without traffic of ours", f"{idle:.3%}"),
            ("RSS when ready", f"{ready['VmRSS'] / 1024:.1f} MiB"),
            (f"RSS after {flows:,} flows", f"{after['VmRSS'] / 1024:.1f} MiB"),
            ("most RSS on the way", f"{after['VmHWM'] / 1024:.1f} MiB"),
        ],
    )


@contextmanager
def started() -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The running process, and the seconds from exec until it was ready."""
    options = ("-I", "ebpf:allow-loopback:true", "-I", "ebpf:quiet:true")
    command = [sys.executable, "-m", "pyegress", "run", "--ebpf", *options, "-o", "logfmt"]
    ready, says_ready = os.pipe()
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--ready-fd", str(says_ready)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[says_ready],
    )
    os.close(says_ready)
    try:
        if not select.select([ready], [], [], LIMIT_S)[0] or os.read(ready, 64) != b"ready\n":
            raise RuntimeError("process: pyegress did not become ready")
        yield process, time.perf_counter() - start
    finally:
        os.close(ready)
        process.terminate()
        process.communicate(timeout=LIMIT_S)


def memory(pid: int) -> dict[str, int]:
    """KiB by the names of proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}


def _read_lines(stream: IO[bytes] | None, count: int) -> None:
    """Take that many lines, so that memory is looked at after the work and not before."""
    assert stream is not None
    deadline = time.monotonic() + LIMIT_S
    while count > 0:
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise RuntimeError(f"process: {count} lines are missing")
        chunk = os.read(stream.fileno(), 1 << 20)
        if not chunk:
            raise RuntimeError("process: pyegress ended early")
        count -= chunk.count(b"\n")

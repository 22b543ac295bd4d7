# SPDX-License-Identifier: MIT
"""How long a log takes to become rules, and to be proved against them, beside only reading it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench import Table
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt
from pyegress.plugin import Batch, Context
from pyegress.record import Connection, Process

DESTINATIONS, PROCESSES, OWN = 50_000, 300, 3
"""Each destination is used by OWN of the processes."""
BATCH = 1000
POLL_S = 0.02
START_NS, GAP_NS = 1_700_000_000_123_456_789, 86_400_123
_READ = "import sys; from pyegress.losses import Losses; from pyegress.logs.reader import LogReader; "
_READ += "all(True for _ in LogReader(Losses()).read(sys.argv[1]))"


class _Run(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mib: float
    """Of all its processes, whenever each had its peak."""


def measure(quick: bool) -> Table:
    """Whole runs of the program, start included: time on the clock and of CPUs, and peak memory."""
    count, destinations = (20_000, 1000) if quick else (1_000_000, DESTINATIONS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        log, made = Path(folder, "log"), Path(folder, "rules")
        _write(log, count, destinations)
        rows.append(_row("only reading it", _run("-c", _READ, str(log))))
        for words in (
            ["--as", "nftables"],
            ["--as", "restore"],
            ["--as", "nftables", "--scope", "user"],
            ["--as", "nftables", "--merge", "prefix"],
        ):
            run = _rules(*words, "--policy", "drop", "--file", str(made), str(log))
            rows.append(_row("rules " + " ".join(words), run))
            if words == ["--as", "nftables"]:
                rows += _loaded(made)
            files = [f"{made}.v4", f"{made}.v6"] if "restore" in words else [str(made)]
            proved = [word for file in files for word in ("--verify", file)]
            rows.append(_row("  --verify", _rules(*proved, str(log))))
    return Table(
        f"Rules from a log of {count:,} connections to {destinations:,} destinations, {PROCESSES} processes",
        ("", "wall s", "CPU s", "MiB"),
        rows,
    )


def _loaded(made: Path) -> list[tuple[str, ...]]:
    """That nft takes the file, in a network namespace of its own; nothing without it or root."""
    nft = shutil.which("nft")
    if nft is None or os.geteuid() != 0:
        return []
    return [_row("  nft -f", _timed(["unshare", "-n", nft, "-f", str(made)]))]


def _row(name: str, run: _Run) -> tuple[str, ...]:
    return name, f"{run.wall_s:.2f}", f"{run.cpu_s:.2f}", f"{run.peak_mib:.0f}"


def _rules(*words: str) -> _Run:
    return _run("-m", "pyegress", "rules", *words)


def _run(*words: str) -> _Run:
    return _timed([sys.executable, *words])


def _timed(command: list[str]) -> _Run:
    begin_s, peaks = time.monotonic(), dict[int, float]()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            for pid in _processes(child.pid):
                peaks[pid] = max(_peak_mib(pid), peaks.get(pid, 0))
            time.sleep(POLL_S)
        _, status, used = ended
        wall_s = time.monotonic() - begin_s
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"rules: {' '.join(command)}: {said.read().decode()}")
    peaks[child.pid] = max(used.ru_maxrss / 1024, peaks.get(child.pid, 0))
    return _Run(wall_s, used.ru_utime + used.ru_stime, sum(peaks.values()))


def _processes(pid: int) -> Iterator[int]:
    """It and its children; nothing of what has ended."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return
    for child in children.split():
        yield from _processes(int(child))


def _peak_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def _write(path: Path, count: int, destinations: int) -> None:
    writer = Logfmt(Logfmt.Options(file=str(path)))  # type: ignore[arg-type]
    writer.open(Context(Losses(), print, print))
    for batch in _batches(count, destinations):
        writer.write(batch)
    writer.close()


def _batches(count: int, destinations: int) -> Iterator[Batch]:
    """The same in each run; a fifth is IPv6."""
    random = Random(1)
    processes = [_process(number) for number in range(PROCESSES)]
    targets = [
        (_address(random, number), random.choice((443, 80, 53)), random.choices(processes, k=OWN))
        for number in range(destinations)
    ]
    for begin in range(0, count, BATCH):
        batch = []
        for at in range(begin, min(begin + BATCH, count)):
            address, port, own = targets[at] if at < destinations else random.choice(targets)
            process = random.choice(own)
            batch.append(
                Connection(
                    START_NS + at * GAP_NS,
                    "ebpf",
                    "udp" if port == 53 else "tcp",
                    6 if ":" in address else 4,
                    address,
                    port,
                    "192.168.1.229",
                    random.randrange(32768, 61000),
                    netns=4026531840,
                    process=process,
                    tid=process.pid,
                    attribution="kernel",
                    socket_uid=process.uid,
                )
            )
        yield batch


def _address(random: Random, number: int) -> str:
    if number % 5 == 0:
        return f"2001:db8:{random.randrange(65536):x}::{number + 1:x}"
    return f"{random.randrange(11, 100)}.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def _process(number: int) -> Process:
    name = f"worker-{number}"
    return Process(
        pid=1000 + number,
        start_ns=10**12 + number,
        comm=name,
        name=name,
        exe=f"/usr/bin/{name}",
        cmdline=f"/usr/bin/{name} --config /etc/worker/{number}.toml --verbose",
        uid=1000 + number % 7,
        user=f"user{number % 7}",
        cgroup_id=5000 + number,
        cgroup=f"/system.slice/{name}.service",
        unit=f"{name}.service",
        slice="system.slice",
        parent=Process(pid=100 + number, name=f"manager-{number}", exe="/usr/bin/manager", user="root"),
    )

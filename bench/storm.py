# SPDX-License-Identifier: MIT
"""A storm of static programs that make one call and end: how many pyegress knows whole, at what cost."""

from __future__ import annotations

import re
import subprocess
import time
from threading import Thread

from bench import Table, cpu_s
from bench.process import LIMIT_S, memory, started
from tests import traffic

PROGRAMS = 10_000
RATE = 1_000
"""Programs a second; the machine may not start as many."""
_WHOLE = (
    "proc_name=short",
    f"proc_exe={traffic.FOLDER / 'short'}",
    "proc_user=root",
    "parent_name=traffic",
    "grandparent_name=",
    "attribution=kernel",
)
_NUMBER = re.compile(r" proc_cmdline=\"\S+/short udp 127\.0\.0\.1 45000 n=(\d+)\" ")


def measure(quick: bool) -> Table:
    """Run the storm once."""
    programs = PROGRAMS // 10 if quick else PROGRAMS
    line = ["storm", str(traffic.short()), "udp", "127.0.0.1", "45000", str(programs), str(RATE)]
    known: set[int] = set()
    with started() as (process, _):
        stdout = process.stdout
        assert stdout is not None

        def collect() -> None:
            for raw in stdout:
                text = raw.decode()
                number = _NUMBER.search(text)
                if number and all(f" {part}" in text for part in _WHOLE):
                    known.add(int(number[1]))

        reader = Thread(target=collect)
        reader.start()
        before = cpu_s(process.pid)
        start = time.perf_counter()
        done = subprocess.run([traffic.traffic(), *line], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        spent = cpu_s(process.pid) - before
        held = memory(process.pid)
        process.terminate()
        process.wait(LIMIT_S)
        reader.join(LIMIT_S)
    sent = int(traffic.words(done.stdout)["sent"])
    return Table(
        f"{sent:,} short programs, one datagram each, {sent / seconds:,.0f} a second",
        ("", "value"),
        [
            ("known whole", f"{len(known):,} of {sent:,}"),
            ("CPU time of pyegress for each", f"{spent / sent * 1e6:,.0f} us"),
            ("RSS after them", f"{held['VmRSS'] / 1024:.1f} MiB"),
            ("most RSS on the way", f"{held['VmHWM'] / 1024:.1f} MiB"),
        ],
    )

# SPDX-License-Identifier: MIT
"""How long a connect waits for nfqueue's verdict, and how many verdicts a core gives, on a host with many sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench import Table, cpu_s
from tests.island import FAR_4, LOCAL_4, Audit, Island, island

PROCESSES = 500
SOCKETS_EACH = 10
CONNECTS = 2000
BURST = 20_000
BURSTS = 3
"""The best one counts: what else runs on the machine can only slow one down."""
PORT = 443
_RULE = ("OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "7")
_CROWD = """
import os, socket, sys
held = []
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[2]))]
        for made in held:
            made.bind(("127.0.0.1", 0))
        os.write(1, b".")
        os.read(0, 1)
        os._exit(0)
os.read(0, 1)
"""
# Times each connect; the listener is in the same namespace, so that nothing but the kernel and the verdict takes time.
_CONNECT = """
import socket, sys, time
listener = socket.create_server(("", int(sys.argv[2])), backlog=4096)
times = []
for _ in range(int(sys.argv[3])):
    made = socket.socket()
    start = time.perf_counter_ns()
    made.connect((sys.argv[1], int(sys.argv[2])))
    times.append(time.perf_counter_ns() - start)
    made.close()
    listener.accept()[0].close()
times.sort()
print(times[len(times) // 2], times[len(times) * 99 // 100])
"""
# Each of these is a connection of its own; at most 500 wait for a verdict at a time, so that none is dropped.
_SEND = """
import socket, sys, time
kept = []
for number in range(int(sys.argv[2])):
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex((sys.argv[1], 1 + number % 60000))
    kept.append(made)
    if len(kept) == 500:
        waiting = 1
        while waiting:
            with open("/proc/net/netfilter/nfnetlink_queue") as file:
                waiting = int(file.read().split()[2])
        kept.clear()
"""


def measure(quick: bool) -> Table:
    """Connects without and with a verdict, one after another and many at once."""
    connects, burst = (CONNECTS // 4, BURST // 2) if quick else (CONNECTS, BURST)
    with island() as netns, _crowd(netns):
        bare = _connect(netns, connects)
        netns.run("iptables", "-A", *_RULE)
        options: tuple[str, ...] = (
            "-i",
            "nfqueue",
            "-I",
            "nfqueue:queue:7",
            "-I",
            "nfqueue:allow-comm:python*",
        )
        options += (
            "-I",
            "nfqueue:default:drop",
            "-I",
            "nfqueue:quiet:true",
            "-o",
            "logfmt",
            "-O",
            "logfmt:file:/dev/null",
        )
        with netns.audit(*options) as audit:
            asked = _connect(netns, connects)
            spent = min(_burst(netns, audit, burst) for _ in range(BURSTS))
            done = audit.stop()
    if f"pyegress: {connects + BURSTS * burst} connections" not in done.err:
        raise RuntimeError(f"queue: not all {connects + BURSTS * burst} connections were seen: {done.err}")
    return Table(
        f"nfqueue with {PROCESSES} processes and {PROCESSES * SOCKETS_EACH:,} sockets, {connects:,} connects, "
        f"then {burst:,} as fast as they go (best of {BURSTS})",
        ("", "median us", "p99 us", "verdicts/s of CPU"),
        [
            ("bare connect", *_us(bare), ""),
            ("with a verdict by process", *_us(asked), f"{burst / spent:,.0f}"),
            ("verdict alone", *_us((asked[0] - bare[0], asked[1] - bare[1])), ""),
        ],
    )


def _connect(netns: Island, connects: int) -> tuple[int, int]:
    median, p99 = netns.python(_CONNECT, LOCAL_4, PORT, connects).split()
    return int(median), int(p99)


def _burst(netns: Island, audit: Audit, connects: int) -> float:
    """CPU seconds of all its threads for so many verdicts."""
    before = cpu_s(audit.process.pid)
    netns.python(_SEND, FAR_4, connects)
    return cpu_s(audit.process.pid) - before


def _us(times_ns: tuple[int, int]) -> tuple[str, str]:
    return f"{times_ns[0] / 1000:,.0f}", f"{times_ns[1] / 1000:,.0f}"


@contextmanager
def _crowd(netns: Island) -> Iterator[None]:
    """Processes with sockets, which end with the block."""
    command = netns.inside(sys.executable, "-c", _CROWD, PROCESSES, SOCKETS_EACH)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdin is not None and crowd.stdout is not None
        left = PROCESSES
        while left:
            left -= len(os.read(crowd.stdout.fileno(), left))
        yield
        crowd.stdin.close()

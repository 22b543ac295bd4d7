# SPDX-License-Identifier: MIT
"""How long it takes to find the process of a packet, on a host with 5,000 sockets and 500 processes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench import Table
from pyegress.attribute.lookup import Found, Lookup, Query
from pyegress.attribute.sockets import MAPPED

PROCESSES = 500
PAIRS = 5
"""TCP connections that each process has with itself: 5,000 sockets."""
FILES = 200
"""Descriptors of each process."""
FEW = 50
HOST = "127.0.0.1"
_REPORT = struct.Struct("=iHH")
"""Number, own port, port of the other end."""
Packets = Iterator[tuple[Query, int]]


class Pipe:
    """Says from children what they did."""

    def __init__(self) -> None:
        self._reads, self._writes = os.pipe()

    def say(self, sport: int = 0, dport: int = 0) -> None:
        """In a child."""
        os.write(self._writes, _REPORT.pack(os.getpid(), sport, dport))

    def hear(self) -> tuple[Query, int]:
        """The packet that the next one sent, and its number."""
        pid, sport, dport = _REPORT.unpack(os.read(self._reads, _REPORT.size))
        return _query(socket.IPPROTO_TCP, sport, dport), pid

    def close(self) -> None:
        """End of the measurement."""
        os.close(self._reads)
        os.close(self._writes)


def measure(quick: bool) -> Table:
    """One process that connects again and again, new ones, and ones that were idle."""
    rounds = 500 if quick else 5000
    own_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (own_files[1], own_files[1]))
    pipe = Pipe()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, own_files)
        stack.callback(pipe.close)
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=1024))
        port = listener.getsockname()[1]
        nursery = stack.enter_context(children(1, lambda: _be_nursery(port, pipe)))[0]
        idle = stack.enter_context(children(PROCESSES, lambda: _be_idle(port, pipe)))
        for _ in idle:
            pipe.hear()
        start = time.perf_counter_ns()
        lookup = Lookup(lambda: True, lambda: None)
        opening = time.perf_counter_ns() - start
        stack.callback(lookup.close)
        rows = [
            _row("TCP, one process", lookup, _own_connections(listener, rounds)),
            _row("UDP, one process", lookup, _own_datagrams(rounds)),
            _row(f"TCP, {FEW} new processes", lookup, _fresh(nursery, pipe)),
            _row(f"TCP, {FEW} idle processes", lookup, _woken(idle[:FEW], pipe)),
        ]
        packets = list(_woken(idle[FEW : 2 * FEW], pipe))
        start = time.perf_counter_ns()
        for found, (_, pid) in zip(lookup.search([query for query, _ in packets]), packets, strict=True):
            _check(found, pid)
        rows.append((f"one search for {FEW} idle processes", "", *_shown([time.perf_counter_ns() - start])))
        rows.append(("open", "", *_shown([opening])))
    return Table(
        f"From a packet to its process: {2 * PAIRS * PROCESSES:,} sockets, {PROCESSES} processes, {FILES} files each",
        ("", "left to search", "median us", "p99 us"),
        rows,
    )


def _row(name: str, lookup: Lookup, packets: Packets) -> tuple[str, ...]:
    times, left = [], 0
    for query, pid in packets:
        start = time.perf_counter_ns()
        found = lookup.find(query)
        times.append(time.perf_counter_ns() - start)
        if found is None:
            left += 1
            found = lookup.search([query])[0]
        _check(found, pid)
    return (name, f"{left} of {len(times)}", *_shown(times))


def _check(found: object, pid: int) -> None:
    if not isinstance(found, Found) or found.process.pid != pid:
        raise RuntimeError(f"lookup: {found} is not process {pid}")


def _shown(times: list[int]) -> tuple[str, str]:
    ordered = sorted(times)
    return f"{statistics.median(ordered) / 1000:,.0f}", f"{ordered[int(len(ordered) * 0.99)] / 1000:,.0f}"


def _query(protocol: int, sport: int, dport: int) -> Query:
    address = MAPPED + socket.inet_aton(HOST)
    return Query(4, protocol, address, address, sport, dport)


def _own_connections(listener: socket.socket, rounds: int) -> Packets:
    port = listener.getsockname()[1]
    for _ in range(rounds):
        with socket.create_connection((HOST, port)) as one:
            listener.accept()[0].close()
            yield _query(socket.IPPROTO_TCP, one.getsockname()[1], port), os.getpid()


def _own_datagrams(rounds: int) -> Packets:
    for _ in range(rounds):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", (HOST, 9))
            yield _query(socket.IPPROTO_UDP, one.getsockname()[1], 9), os.getpid()


def _fresh(nursery: int, pipe: Pipe) -> Packets:
    for _ in range(FEW):
        os.kill(nursery, signal.SIGUSR1)
        query, pid = pipe.hear()
        yield query, pid
        os.kill(pid, signal.SIGKILL)


def _woken(pids: list[int], pipe: Pipe) -> Packets:
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
        yield pipe.hear()


@contextmanager
def children(count: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Processes that wait for a signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    pids: list[int] = []
    try:
        pids += (_started(act) for _ in range(count))
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def _be_nursery(port: int, pipe: Pipe) -> None:
    """Its children are not ours: a fork would slow us down."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        signal.sigwait({signal.SIGUSR1})
        _started(lambda: _connect(port, pipe))


def _be_idle(port: int, pipe: Pipe) -> None:
    held: list[socket.socket] = []
    with socket.create_server((HOST, 0)) as own:
        for _ in range(PAIRS):
            held += [socket.create_connection(own.getsockname()), own.accept()[0]]
    for _ in range(FILES - len(held)):
        os.open(os.devnull, os.O_RDONLY)
    pipe.say()
    signal.sigwait({signal.SIGUSR1})
    _connect(port, pipe)


def _connect(port: int, pipe: Pipe) -> None:
    with socket.create_connection((HOST, port)) as one:
        pipe.say(one.getsockname()[1], port)
        signal.pause()


def _started(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return pid

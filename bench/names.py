# SPDX-License-Identifier: MIT
"""How many DNS answers per second of CPU time one core takes, and what connections cost to be named."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from ipaddress import ip_address
from itertools import pairwise

import dns.message
import dns.rrset

from bench import Table
from pyegress.losses import Losses
from pyegress.names.memory import Memory
from pyegress.names.namer import Namer
from pyegress.names.observed import ObservedDns
from pyegress.names.segment import UDP, Ends, Segment
from pyegress.plugin import Context
from pyegress.record import Connection

RUNS = 5
NAMES = 2000
_FIRST = 0xC6120000
"""198.18.0.0"""
_SERVER = b"\0" * 10 + b"\xff\xff\xc6\x12\0\x35"


def measure(quick: bool) -> Table:
    """Each kind of answer, with its question, then connections, each to another address."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        count = NAMES // 5 if quick else NAMES
        rows: list[tuple[str, ...]] = [
            _row(name, _answers(segments), count) for name, segments in _kinds(count)
        ]
        rows.append(_row("a connection to one of 2,000 names", _connections(count), count))
    finally:
        os.sched_setaffinity(0, cpus)
    return Table(
        f"Names on one core, CPU time, median of {RUNS}",
        ("question and answer with", "per s", "us each"),
        rows,
    )


def _kinds(count: int) -> list[tuple[str, list[Segment]]]:
    return [
        ("one address", _said(count, 0, 1)),
        ("an alias and four addresses", _said(count, 1, 4)),
        ("three aliases and 30 addresses", _said(count, 3, 30)),
    ]


def _said(count: int, aliases: int, addresses: int) -> list[Segment]:
    segments = []
    for number in range(count):
        names = [
            f"www.shop-{number}.example.",
            *(f"edge-{n}.pop-{number}.cdn.example." for n in range(aliases)),
        ]
        question = dns.message.make_query(names[0], "A", id=number)
        answer = dns.message.make_response(question)
        for owner, target in pairwise(names):
            answer.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", target))
        told = (str(ip_address(_FIRST + number * addresses + n)) for n in range(addresses))
        answer.answer.append(dns.rrset.from_text(names[-1], 60, "IN", "A", *told))
        ends = Ends(UDP, bytes(16), 1024 + number, _SERVER, number)
        segments += [
            Segment(ends, False, question.to_wire(), number),
            Segment(ends, True, answer.to_wire(), number),
        ]
    return segments


def _answers(segments: list[Segment]) -> Callable[[], None]:
    def run() -> None:
        ObservedDns(Memory()).take(segments)

    return run


def _connections(count: int) -> Callable[[], None]:
    namer = Namer("bench", "dns", Context(Losses(), print, print), taps=False)
    namer.take(_said(count, 1, 1))
    batch = [
        Connection(1, "ebpf", "tcp", 4, f"198.18.{number >> 8}.{number & 255}", 443)
        for number in range(count)
    ]

    def run() -> None:
        for connection in batch:
            namer.named([connection], 1)

    return run


def _row(name: str, run: Callable[[], None], count: int) -> tuple[str, str, str]:
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    each_s = statistics.median(times) / count
    return name, f"{1 / each_s:,.0f}", f"{each_s * 1e6:.1f}"

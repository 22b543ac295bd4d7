# SPDX-License-Identifier: MIT
"""Inside the guest: what a call costs bare and under each kind of hook; writes JSON for `bench.kernel`.

The guest's clock counts instructions, so a time in ns here is a number of instructions.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from pyegress.prefixes import Network, Verdict
from pyegress.session import Session, Settings
from tests import traffic

TARGET = "127.0.0.1"
CLOSED_PORT = 45000
KINDS = ("fentry", "kprobe")
CIDRS = 10_000

Call = Literal["bench udp", "benchports udp", "bench tcp"]
_HIDE = Verdict(rule=0, ignore=True, only=False)


class Case(NamedTuple):
    """One way through the BPF program, and the counter that every call on it moves by one."""

    name: str
    call: Call
    settings: Settings
    counter: str


class Result(msgspec.Struct, frozen=True):
    """Instructions of one call: bare, then by kind of hook."""

    name: str
    call: Call
    bare: int
    attached: dict[str, int]


class Results(msgspec.Struct, frozen=True):
    """All cases, and how far the bare calls had moved when they were measured again at the end."""

    cases: list[Result]
    drift: int


def _cases() -> Sequence[Case]:
    everything = Settings(report_loopback=True)
    # Single addresses, spread evenly: the path to each is as long as 10,000 rules make it.
    spread = random.Random(1).sample(range(1 << 24, 224 << 24), CIDRS - 1)
    cidrs: dict[Network, Verdict] = {IPv4Network(address): _HIDE for address in (TARGET, *spread)}
    hidden = Settings()
    by_port = Settings(report_loopback=True, ports={CLOSED_PORT: _HIDE}, rules=1)
    by_cidr = Settings(report_loopback=True, cidrs=cidrs, rules=1)
    each = Settings(report_loopback=True, window_ns=0)
    return (
        Case("datagram dropped: loopback", "bench udp", hidden, "skipped_loopback"),
        Case("datagram dropped: port rule", "bench udp", by_port, "skipped_port"),
        Case(f"datagram dropped: {CIDRS:,} CIDR rules", "bench udp", by_cidr, "skipped_cidr"),
        Case("datagram of a known flow", "bench udp", everything, "datagrams"),
        Case("datagram reported, window 0", "bench udp", each, "reported"),
        Case("datagram reported, new flow", "benchports udp", everything, "reported"),
        Case("connect dropped: loopback", "bench tcp", hidden, "skipped_loopback"),
        Case("connect reported", "bench tcp", everything, "reported"),
    )


def _spent(call: Call, count: int) -> int:
    command, protocol = call.split()
    line = traffic.run(command, protocol, TARGET, CLOSED_PORT, count).stdout
    fields = dict(field.split("=", 1) for field in line.split())
    return int(fields["median"]) - int(fields["clock"])


def _spent_attached(kind: str, case: Case, count: int) -> int:
    session = Session(kind, case.settings)
    try:
        spent = _spent(case.call, count)
        moved = session.counters()[case.counter]
    finally:
        session.close()
    if moved < count:
        raise RuntimeError(f"{kind}: {case.name}: {case.counter} is {moved} after {count} calls")
    return spent


def measure(count: int) -> Results:
    """Measure every case with `count` calls."""
    cases = _cases()
    calls = dict.fromkeys(case.call for case in cases)
    bare = {call: _spent(call, count) for call in calls}
    results = [
        Result(
            case.name,
            case.call,
            bare[case.call],
            {kind: _spent_attached(kind, case, count) for kind in KINDS},
        )
        for case in cases
    ]
    return Results(results, max(abs(_spent(call, count) - bare[call]) for call in calls))


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(measure(int(sys.argv[2]))))

# SPDX-License-Identifier: MIT
"""Inside the guest: what a call costs bare and under each kind of hook; writes JSON for `bench.kernel`.

The guest's clock counts instructions, so a time in ns here is a number of instructions.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from pyegress.decode.details import DetailsDecoder
from pyegress.prefixes import Network, Verdict
from pyegress.record import Details
from pyegress.session import Session, Settings
from tests import traffic

TARGET = "127.0.0.1"
CLOSED_PORT = 45000
KINDS = ("fentry", "kprobe")
CIDRS = 10_000
GOALS = "goal"
"""How the names of cases begin that docs/performance.md has goals for."""
USUAL_CIDRS, USUAL_PORTS = 1000, 50
"""Rules that the goals of docs/performance.md are stated with."""

Call = Literal["bench udp", "benchports udp", "benchaddrs udp", "benchforks udp", "bench tcp"]
_HIDE = Verdict(rule=0, ignore=True, only=False)
_PROGRAM = "traffic"


class Case(NamedTuple):
    """One way through the BPF program, and the counter that every call on it moves by one."""

    name: str
    call: Call
    settings: Settings
    counter: str
    judge: bool = False
    """User space tells the kernel to hide the program as soon as it knows it."""


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
    # The first datagram of each process goes to the next port and is dropped; the second one is timed.
    forks = Settings(report_loopback=True, ports={CLOSED_PORT + 1: _HIDE}, rules=1)
    by_comm = Settings(report_loopback=True, comms={_PROGRAM.encode().ljust(16, b"\0"): _HIDE}, rules=1)
    by_verdict = Settings(report_loopback=True, hide_programs=True, rules=1)
    usual_cidrs: dict[Network, Verdict] = {IPv4Network(address): _HIDE for address in spread[:USUAL_CIDRS]}
    usual_ports = dict.fromkeys(range(1, USUAL_PORTS + 1), _HIDE)
    usual = Settings(report_loopback=True, cidrs=usual_cidrs, ports=usual_ports, rules=1)
    with_target: dict[Network, Verdict] = {**usual_cidrs, IPv4Network(TARGET): _HIDE}
    usual_drop = Settings(report_loopback=True, cidrs=with_target, ports=usual_ports, rules=1)
    return (
        Case(f"{GOALS}: datagram of a known flow", "bench udp", usual, "datagrams"),
        Case(f"{GOALS}: 256 addresses in turn", "benchaddrs udp", usual, "datagrams"),
        Case(f"{GOALS}: datagram dropped by CIDR", "bench udp", usual_drop, "skipped_cidr"),
        Case(f"{GOALS}: connect reported", "bench tcp", usual, "reported"),
        Case(f"{GOALS}: connect dropped by CIDR", "bench tcp", usual_drop, "skipped_cidr"),
        Case(f"{GOALS}: loopback, which is left out", "bench udp", hidden, "skipped_loopback"),
        Case("datagram dropped: port rule", "bench udp", by_port, "skipped_port"),
        Case(f"datagram dropped: {CIDRS:,} CIDR rules", "bench udp", by_cidr, "skipped_cidr"),
        Case("datagram dropped: name of the process", "bench udp", by_comm, "skipped_process"),
        Case("datagram dropped: verdict on the process", "bench udp", by_verdict, "skipped_process", True),
        Case("datagram of a known flow", "bench udp", everything, "datagrams"),
        Case("datagram of a known flow, process rules", "bench udp", by_verdict, "datagrams"),
        Case("datagram reported, window 0", "bench udp", each, "reported"),
        Case("datagram reported, new flow", "benchports udp", everything, "reported"),
        Case("datagram reported, new process", "benchforks udp", forks, "reported"),
        Case("connect dropped: loopback", "bench tcp", hidden, "skipped_loopback"),
        Case("connect reported", "bench tcp", everything, "reported"),
    )


def _spent(call: Call, count: int, session: Session | None = None) -> int:
    command, protocol = call.split()
    line = [str(traffic.traffic()), command, protocol, TARGET, str(CLOSED_PORT), str(count)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        if session:
            _hide(session)
        said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{' '.join(line)} failed")
    fields = traffic.words(said)
    return int(fields["median"]) - int(fields["clock"])


def _hide(session: Session) -> None:
    """Judge the program with its first event, as the ebpf input does."""
    decoder = DetailsDecoder(session.ffi)
    while True:
        session.read(100)
        for told in decoder.decode(session.details()):
            if isinstance(told, Details) and told.seen.comm == _PROGRAM:
                session.hide_program(told.seen, 0)
                return


def _spent_attached(kind: str, case: Case, count: int) -> int:
    session = Session(kind, case.settings)
    try:
        spent = _spent(case.call, count * 8 if case.judge else count, session if case.judge else None)
        moved = session.counters()[case.counter]
    finally:
        session.close()
    # Before the verdict comes some pass: they must not be what the median shows.
    if moved < (count * 5 if case.judge else count):
        raise RuntimeError(f"{kind}: {case.name}: {case.counter} is {moved} after {count} calls")
    return spent


def measure(count: int, part: str = "") -> Results:
    """Measure every case whose name has that part, with `count` calls."""
    cases = [case for case in _cases() if part in case.name]
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
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(measure(int(sys.argv[2]), *sys.argv[3:])))

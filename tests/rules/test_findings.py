# SPDX-License-Identifier: MIT
"""The outcome comes first, long lists are cut, and hostile names stay on their line."""

from __future__ import annotations

from pyegress.record import Connection, Process
from pyegress.rules.diff import compare
from pyegress.rules.findings import SHOWN, difference_lines, proof_lines
from pyegress.rules.firewall import Entry, Firewall
from pyegress.rules.proof import verify


def firewall(*ports: int, policy: str = "drop", text: str = "rule") -> Firewall:
    """It accepts TCP to some ports."""
    entries = tuple(
        Entry(line=port, text=text, verdict="accept", protocol=6, dports=((port, port),), hits=0)
        for port in ports
    )
    return Firewall(kind="nftables", families=(4, 6), entries=entries, policy=policy)  # type: ignore[arg-type]


def seen(port: int, name: str = "curl") -> Connection:
    """A connect by a program."""
    return Connection(1, "ebpf", "tcp", 4, "192.0.2.1", port, process=Process(pid=1, name=name))


def test_nothing_dropped() -> None:
    """The sentence that people look for, and what nothing used."""
    lines = list(proof_lines(verify([firewall(443, 80)], [[seen(443)]])))
    assert lines == [
        "0 of 1 observed connection would be dropped",
        "rules that nothing used: 1 of 2",
        "  line 80: rule",
    ]


def test_dropped_with_a_hostile_name() -> None:
    """Which, by what, and who it was."""
    lines = list(proof_lines(verify([firewall(80)], [[seen(443, "a\nb\x1b")]])))
    assert lines[0] == "1 of 1 observed connection would be dropped:"
    assert lines[1] == "  tcp 192.0.2.1:443: 1 by a\\nb\\u001b: by the policy"
    assert all(line.isprintable() for line in lines)


def test_long_lists_are_cut() -> None:
    """Unless all is asked for."""
    proof = verify([firewall()], [[seen(port) for port in range(1, SHOWN + 11)]])
    assert "  ... and 10 more (--verbose)" in list(proof_lines(proof))
    assert len(list(proof_lines(proof, verbose=True))) == SHOWN + 12


def test_difference() -> None:
    """What is missing, what is too much, what was never hit."""
    lines = list(difference_lines(compare([firewall(1, 2)], [firewall(2, 3)])))
    assert lines == [
        "missing (wanted, not live): 1",
        "  line 1: rule",
        "superfluous (live, not wanted): 1",
        "  line 3: rule",
        "never hit: 2",
        "  line 2: rule",
        "  line 3: rule",
        "2 rules wanted, 2 live",
    ]

# SPDX-License-Identifier: MIT
"""What a proof or a comparison of rules has found, as lines for people."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pyegress.escape import display
from pyegress.rules.diff import Difference
from pyegress.rules.firewall import Entry
from pyegress.rules.matcher import Packet
from pyegress.rules.proof import Proof, Told
from pyegress.rules.wording import number

SHOWN = 20
"""Lines of one kind, unless all are asked for."""
_TEXT = 200
"""Characters of a rule."""
_PROTOCOLS = {6: "tcp", 17: "udp"}

_Item = TypeVar("_Item")


def proof_lines(proof: Proof, verbose: bool = False) -> Iterator[str]:
    """The outcome first."""
    some = ":" if proof.drops else ""
    yield f"{proof.dropped} of {number(proof.observed, 'observed connection')} would be dropped{some}"
    yield from _listed(proof.drops, verbose, _drop_line)
    if proof.by_policy:
        yield f"{number(proof.by_policy, 'connection')} let through by the policy alone, no rule is for them:"
        yield from _listed(proof.unruled, verbose, _told_line)
    for family, count in proof.not_judged:
        other = "IPv4" if family == 6 else "IPv6"
        yield f"{number(count, f'IPv{family} connection')} not judged: the rules are for {other} only"
    for reason, count in proof.left_out:
        yield f"{number(count, 'connection')} not counted: {display(reason)}"
    if proof.not_understood:
        yield (
            f"rules with matches that are not understood: {len(proof.not_understood)} "
            "(taken to let nothing through, and to drop)"
        )
        yield from _listed(proof.not_understood, verbose, _unknown_line)
    yield f"rules that nothing used: {len(proof.unused)} of {proof.rules}"
    yield from _listed(proof.unused, verbose, _entry_line)


def difference_lines(difference: Difference, verbose: bool = False) -> Iterator[str]:
    """What is missing first."""
    for what, entries in (
        ("missing (wanted, not live)", difference.missing),
        ("superfluous (live, not wanted)", difference.superfluous),
        ("never hit", difference.never_hit),
    ):
        yield f"{what}: {len(entries)}"
        yield from _listed(entries, verbose, _entry_line)
    if difference.uncounted:
        yield f"{number(difference.uncounted, 'live rule')} without a counter: whether they were hit is not known"
    yield f"{number(difference.wanted, 'rule')} wanted, {difference.live} live"


def _listed(items: Sequence[_Item], verbose: bool, line: Callable[[_Item], str]) -> Iterator[str]:
    shown = items if verbose else items[:SHOWN]
    for item in shown:
        yield f"  {line(item)}"
    if len(items) > len(shown):
        yield f"  ... and {len(items) - len(shown)} more (--verbose)"


def _drop_line(told: Told) -> str:
    by = "the policy" if told.entry is None else _entry_line(told.entry)
    return f"{_told_line(told)}: {'by' if told.surely else 'maybe by'} {by}"


def _told_line(told: Told) -> str:
    # What the observed process chose comes behind what it can't choose.
    program = told.program
    who = display(program.name) if program.name else "an unknown process"
    if program.user:
        who += f" running as {display(program.user)}"
    if program.unit:
        who += f" in {display(program.unit)}"
    return f"{_destination(told.packet)}: {told.count} by {who}"


def _destination(packet: Packet) -> str:
    address = str(
        ipaddress.IPv4Address(packet.address) if packet.family == 4 else ipaddress.IPv6Address(packet.address)
    )
    protocol = _PROTOCOLS.get(packet.protocol, f"protocol {packet.protocol}")
    if packet.dport is None:
        return f"{protocol} {address}"
    return f"{protocol} {address if packet.family == 4 else f'[{address}]'}:{packet.dport}"


def _entry_line(entry: Entry) -> str:
    text = display(entry.text)
    if len(text) > _TEXT:
        text = f"{text[:_TEXT]}..."
    if entry.name_set is not None and entry.comment and entry.comment not in text:
        text += f" ({display(entry.comment)})"
    return f"line {entry.line}: {text}" if entry.line else text


def _unknown_line(entry: Entry) -> str:
    return f"{_entry_line(entry)} ({display(', '.join(entry.unknown))})"

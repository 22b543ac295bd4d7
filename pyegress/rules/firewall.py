# SPDX-License-Identifier: MIT
"""A firewall's output rules as they were read from a file or from the kernel, in one form for every firewall.

What is asked of them is about the first packet of an outgoing connection. A match that isn't understood is kept as
such: an `accept` behind it is taken to let nothing through, and a `drop` to possibly drop.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pyegress.rules.addresses import Network

Verdict = Literal["accept", "drop", "reject", "continue"]
"""`continue`: it only counts or logs."""

Range = tuple[int, int]
"""First and last."""
EMPTY_SET = "a set of a name without addresses"
"""The match that isn't understood of a rule that looks into one: nothing gets through by it now."""


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A rule, or an element of the set that a rule looks into, which then is one of its own.

    Each match is None where the rule doesn't ask for it.
    """

    line: int
    """Where it stands in its file, from 1; 0 for rules of the kernel."""
    text: str
    """The rule as it was written or listed, for people; not escaped."""
    verdict: Verdict
    family: Literal[4, 6] | None = None
    protocol: int | None = None
    """IP protocol number."""
    network: Network | None = None
    """Of the destination; a range that is no network is several entries."""
    dports: tuple[Range, ...] | None = None
    sports: tuple[Range, ...] | None = None
    oifname: str | None = None
    uids: tuple[Range, ...] | None = None
    """Of the socket's owner."""
    cgroup: str | None = None
    """Path of a cgroup v2 without the leading slash; the socket's is that one or below."""
    icmp_types: tuple[Range, ...] | None = None
    name_set: str | None = None
    """The set of a name's addresses that `network` is in; what is in there changes while rules are loaded."""
    established: bool = False
    """It is for packets of known connections only: never for a first one."""
    loopback: bool = False
    """For the device lo only."""
    unknown: tuple[str, ...] = ()
    """Matches that aren't understood."""
    comment: str | None = None
    hits: int | None = None
    """Packets, where it counts them; None where it doesn't."""


class Firewall(msgspec.Struct, frozen=True, kw_only=True):
    """One chain of output rules, first to last, for one or both families."""

    kind: Literal["iptables", "nftables"]
    families: tuple[Literal[4, 6], ...]
    entries: tuple[Entry, ...]
    policy: Verdict = "accept"
    """Of what no entry decides."""

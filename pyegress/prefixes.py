# SPDX-License-Identifier: MIT
"""`ignore-cidr` and `only-cidr` as one table for longest-prefix look-up, so that the kernel looks up once.

An address is ignored when any ignored prefix holds it, however specific another one is; so each prefix carries
what every wider one decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Network = IPv4Network | IPv6Network


class Verdict(NamedTuple):
    """What holds for all addresses whose longest matching prefix is this one."""

    rule: int
    ignore: bool
    only: bool


def table(
    ignore: Sequence[tuple[int, Network]], only: Sequence[tuple[int, Network]]
) -> dict[Network, Verdict]:
    """Verdicts by prefix, from (rule number, prefix) pairs. The rule is the widest one that decides."""
    ignoring, wanting = _first_rules(ignore), _first_rules(only)
    lengths = {
        version: sorted({n.prefixlen for n in (*ignoring, *wanting) if n.version == version})
        for version in (4, 6)
    }
    result: dict[Network, Verdict] = {}
    for network in (*ignoring, *wanting):
        if network in result:
            continue
        wider = [network.supernet(new_prefix=n) for n in lengths[network.version] if n <= network.prefixlen]
        ignored = next((ignoring[n] for n in wider if n in ignoring), None)
        wanted = next((wanting[n] for n in wider if n in wanting), None)
        rule = ignored if ignored is not None else wanted
        assert rule is not None
        result[network] = Verdict(rule, ignored is not None, wanted is not None)
    return result


def _first_rules(rules: Iterable[tuple[int, Network]]) -> dict[Network, int]:
    found: dict[Network, int] = {}
    for rule, network in rules:
        found.setdefault(network, rule)
    return found

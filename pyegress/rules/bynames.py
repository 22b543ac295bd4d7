# SPDX-License-Identifier: MIT
"""Rules by name, as firewalls want them: a set of addresses for each name and family, and rules that look into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyegress.rules.addresses import Family, Network
from pyegress.rules.shape import Ports, Rule, Who, joined

NameSets = dict[tuple[str, Family], dict[Network, list[Rule]]]


class NameRule(NamedTuple):
    """What one rule allows: a name's addresses, with all ports that were used there."""

    name: str
    who: Who
    family: Family
    protocol: str
    ports: Ports
    """Empty for protocols without ports."""
    rules: list[Rule]


def without_name(rules: Iterable[Rule]) -> list[Rule]:
    """Those that are by address."""
    return [rule for rule in rules if rule.name is None]


def name_sets(rules: Iterable[Rule]) -> NameSets:
    """The addresses that were seen under each name, with the rules that each comes from."""
    found: NameSets = {}
    for rule in rules:
        if rule.name is not None:
            addresses = found.setdefault((rule.name, rule.network.family), {})
            addresses.setdefault(rule.network, []).append(rule)
    return dict(sorted(found.items()))


def name_rules(rules: Iterable[Rule]) -> list[NameRule]:
    """By name, in the order of who, family and protocol."""
    found: dict[tuple[str, Who, Family, str], list[Rule]] = {}
    for rule in rules:
        if rule.name is not None:
            key = rule.name, rule.who, rule.network.family, rule.protocol
            found.setdefault(key, []).append(rule)
    return [NameRule(*key, joined(each), each) for key, each in sorted(found.items(), key=_rank)]


def _rank(item: tuple[tuple[str, Who, Family, str], object]) -> tuple[object, ...]:
    name, who, family, protocol = item[0]
    return name, -1 if who.uid is None else who.uid, who.unit or "", family, protocol.zfill(3)

# SPDX-License-Identifier: MIT
"""From what was observed to rules: for whom, and how wide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import structs

from pyegress.rules.addresses import Network
from pyegress.rules.baseline import Servers
from pyegress.rules.cover import cover
from pyegress.rules.model import Evidence, Observations, Owner, Seen
from pyegress.rules.options import Policy, RuleOptions, Scope


class Who(NamedTuple):
    """Whose connections a rule allows; everybody's where both are None."""

    uid: int | None
    """Of the socket's owner."""
    unit: str | None
    """Path of a cgroup v2 without the leading slash: `system.slice/ssh.service`."""


ANYBODY = Who(None, None)

Ports = tuple[tuple[int, int], ...]
"""First and last of each range, in order, neither touching nor overlapping."""


class Rule(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Something that is allowed."""

    who: Who
    user: str | None
    """Name of `who.uid` where it is known."""
    protocol: str
    """tcp, udp, or the number as text, never 0."""
    network: Network
    ports: Ports
    """Empty for protocols without ports."""
    ifname: str | None
    """Only for link-local destinations."""
    used: int
    """Addresses in the network that were seen."""
    seen: Seen
    widened: bool
    """Scoped rules were wanted, but whose connections these were isn't known or can't be written."""
    name: str | None = None
    """It is for that name, of which `network` is one address."""

    @property
    def unseen(self) -> int:
        """Addresses that it allows though nobody used them."""
        return self.network.addresses - self.used


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a file of rules is made from."""

    rules: tuple[Rule, ...]
    """By family, protocol, network, ports, interface and who; no two the same."""
    evidence: Evidence
    options: RuleOptions
    servers: Servers | None
    """For the baseline; None without one."""
    shared: dict[Network, tuple[str, ...]] = {}
    """Addresses that rules by name allow and that have several names, aliases among them."""

    @property
    def unseen(self) -> int:
        """Addresses that are allowed though nobody used them, those of each rule counted."""
        return sum(rule.unseen for rule in self.rules)

    @property
    def policy(self) -> Policy:
        return self.options.policy


def plan(observations: Observations, options: RuleOptions, servers: Servers | None = None) -> Plan:
    """All of it for what was observed until now."""
    rules = tuple(shaped(observations, options))
    return Plan(
        rules=rules,
        evidence=observations.evidence(),
        options=options,
        servers=servers,
        shared=_shared(rules),
    )


def shaped(observations: Observations, options: RuleOptions) -> list[Rule]:
    """The rules for what was observed, in their order."""
    exact = list(_exact(observations, options.scope))
    if options.merge == "ports":
        return sorted(_merged(exact, _by_address, _one_address), key=_rank)
    if options.merge == "prefix":
        return sorted(_merged(exact, _by_port, lambda rules: _networks(rules, options)), key=_rank)
    return sorted(exact, key=_rank)


def joined(rules: Iterable[Rule]) -> Ports:
    """The ports of all of them."""
    ports: list[tuple[int, int]] = []
    for first, last in sorted({each for rule in rules for each in rule.ports}):
        if ports and first == ports[-1][1] + 1:
            ports[-1] = ports[-1][0], last
        else:
            ports.append((first, last))
    return tuple(ports)


def who_of(owner: Owner, scope: Scope) -> Who:
    """Whose connections are allowed where that owner's were seen."""
    if scope == "user":
        return Who(owner.uid, None)
    return Who(None, owner.unit) if scope == "unit" else ANYBODY


def _shared(rules: Iterable[Rule]) -> dict[Network, tuple[str, ...]]:
    names: dict[Network, dict[str, None]] = {}
    for rule in rules:
        if rule.name is not None:
            names.setdefault(rule.network, {}).update(dict.fromkeys((rule.name, *rule.seen.names)))
    return {network: tuple(each) for network, each in names.items() if len(each) > 1}


def _exact(observations: Observations, scope: Scope) -> Iterator[Rule]:
    for destination, owners in observations.by_destination():
        folded: dict[Who, tuple[Seen, str | None]] = {}
        for owner, seen in owners.items():
            who = who_of(owner, scope)
            total, user = folded.get(who) or (Seen(seen.hook, None), None)
            total.add(seen)
            folded[who] = total, user or owner.user
        for who, (total, user) in folded.items():
            yield Rule(
                who=who,
                user=user if who.uid is not None else None,
                protocol=destination.protocol,
                network=destination.address,
                ports=() if destination.port is None else ((destination.port, destination.port),),
                ifname=destination.ifname,
                used=1,
                seen=total,
                widened=scope != "any" and who == ANYBODY,
                name=destination.name,
            )


def _merged(
    rules: Iterable[Rule],
    key: Callable[[Rule], tuple[object, ...]],
    merge: Callable[[list[Rule]], Iterator[Rule]],
) -> Iterator[Rule]:
    alike: dict[tuple[object, ...], list[Rule]] = {}
    for rule in rules:
        alike.setdefault(key(rule), []).append(rule)
    for group in alike.values():
        yield from merge(group)


def _by_address(rule: Rule) -> tuple[object, ...]:
    return rule.who, rule.protocol, rule.network, rule.ifname


def _by_port(rule: Rule) -> tuple[object, ...]:
    return rule.who, rule.protocol, rule.network.family, rule.ports, rule.ifname


def _one_address(rules: list[Rule]) -> Iterator[Rule]:
    yield structs.replace(rules[0], ports=joined(rules), seen=_together(rules))


def _networks(rules: list[Rule], options: RuleOptions) -> Iterator[Rule]:
    rules.sort(key=lambda rule: rule.network.first)
    family = rules[0].network.family
    for network, start, end in cover(
        family, [rule.network.first for rule in rules], options.max_extra.allows
    ):
        inside = rules[start:end]
        yield structs.replace(inside[0], network=network, used=end - start, seen=_together(inside))


def _together(rules: list[Rule]) -> Seen:
    if len(rules) == 1:
        return rules[0].seen
    total = Seen(rules[0].seen.hook, None)
    for rule in rules:
        total.add(rule.seen)
    return total


def _rank(rule: Rule) -> tuple[object, ...]:
    return (
        rule.network.family,
        rule.protocol.zfill(3),
        rule.network.first,
        rule.network.prefix,
        rule.ports,
        rule.ifname or "",
        -1 if rule.who.uid is None else rule.who.uid,
        rule.who.unit or "",
        rule.name or "",
    )

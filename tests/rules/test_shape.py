# SPDX-License-Identifier: MIT
"""Whatever was observed, some rule allows it, no two are the same, and they come in one order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.record import Connection, Process
from pyegress.rules.addresses import Network
from pyegress.rules.model import destination_of, owner_of
from pyegress.rules.options import MaxExtra, Merge, RuleOptions, Scope
from pyegress.rules.shape import ANYBODY, Rule, plan, shaped, who_of
from tests.rules.observed import connections, observed

SCOPES = st.sampled_from(["any", "user", "unit"])
MERGES = st.sampled_from(["exact", "ports", "prefix"])
EXTRAS = st.sampled_from(["0", "2", "256", "/24", "/32,/128", "/0"])


def options(scope: Scope, merge: Merge = "exact", extra: str = "256") -> RuleOptions:
    return RuleOptions(scope=scope, merge=merge, max_extra=MaxExtra.read(extra))


def holds(network: Network, other: Network) -> bool:
    return network.family == other.family and (network.first ^ other.first) < network.addresses


def allows(rule: Rule, connection: Connection, scope: Scope) -> bool:
    destination = destination_of(connection)
    assert not isinstance(destination, str)
    return (
        rule.protocol == destination.protocol
        and holds(rule.network, destination.address)
        and rule.ifname == destination.ifname
        and rule.who == who_of(owner_of(connection), scope)
        and (
            rule.ports == ()
            if destination.port is None
            else any(first <= destination.port <= last for first, last in rule.ports)
        )
    )


@settings(deadline=None)
@given(connections, SCOPES, MERGES, EXTRAS)
def test_every_observed_connection_is_allowed(
    seen: list[Connection], scope: Scope, merge: Merge, extra: str
) -> None:
    """By exactly one rule, and each rule counts those that it allows."""
    rules = shaped(observed(seen), options(scope, merge, extra))
    matched = [[rule for rule in rules if allows(rule, connection, scope)] for connection in seen]
    assert all(len(each) == 1 for each in matched)
    for rule in rules:
        mine = [each for each, found in zip(seen, matched, strict=True) if found == [rule]]
        assert rule.seen.count == len(mine)
        assert rule.seen.first_ns == min(each.ts for each in mine)
        assert rule.seen.last_ns == max(each.ts for each in mine)
        assert sum(rule.seen.programs.values()) + rule.seen.more == len(mine)
        assert rule.widened == (scope != "any" and rule.who == ANYBODY)
        assert rule.used == len({each.dest_ip for each in mine})


@settings(deadline=None)
@given(connections, SCOPES, MERGES, EXTRAS, st.integers())
def test_order_is_one(seen: list[Connection], scope: Scope, merge: Merge, extra: str, seed: int) -> None:
    """Whatever came first, and no two rules match the same."""

    def made(given: list[Connection]) -> list[tuple[object, ...]]:
        return [
            (rule.network, rule.protocol, rule.ports, rule.ifname, rule.who, rule.used, rule.seen.count)
            for rule in shaped(observed(given), options(scope, merge, extra))
        ]

    rules = made(seen)
    assert made(random.Random(seed).sample(seen, len(seen))) == rules
    matches = [rule[:5] for rule in rules]
    assert len(set(matches)) == len(matches)
    assert [network[0].family for network in rules] == sorted(network[0].family for network in rules)  # type: ignore[attr-defined]


@settings(deadline=None)
@given(connections, st.sampled_from(["any", "user", "unit"]))
def test_ports_are_ranges(seen: list[Connection], scope: Scope) -> None:
    """In order, and none touches the next."""
    for rule in shaped(observed(seen), options(scope, "ports")):
        for (_, last), (first, _) in zip(rule.ports, rule.ports[1:], strict=False):
            assert last + 1 < first
        assert all(first <= last for first, last in rule.ports)


def test_width_is_counted() -> None:
    """Each rule's unseen addresses, and all of them."""
    seen = [Connection(1, "ebpf", "tcp", 4, f"192.0.2.{host}", 443) for host in (1, 2, 6)]
    made = plan(observed(seen), options("any", "prefix", "5"))
    assert [(str(rule.network), rule.used, rule.unseen) for rule in made.rules] == [("192.0.2.0/29", 3, 5)]
    assert (made.unseen, made.policy) == (5, "log")
    narrow = plan(observed(seen), options("any", "prefix", "4"))
    assert [str(rule.network) for rule in narrow.rules] == ["192.0.2.0/30", "192.0.2.6"]
    assert narrow.unseen == 2


@pytest.mark.parametrize(
    ("scope", "who"),
    [("any", (None, None)), ("user", (7, None)), ("unit", (None, "a.service"))],
)
def test_who(scope: Scope, who: tuple[int | None, str | None]) -> None:
    process = Process(
        pid=1, uid=5, user="five", cgroup="/a.service/x", cgroup_id=3, unit="a.service", name="a"
    )
    seen = Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 1, process=process, socket_uid=7)
    (rule,) = shaped(observed([seen]), options(scope))
    assert rule.who == who
    assert rule.user is None
    assert not rule.widened

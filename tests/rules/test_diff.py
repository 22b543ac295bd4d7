# SPDX-License-Identifier: MIT
"""Rules are compared by what they let through."""

from __future__ import annotations

from typing import Any

import pytest

from pyegress.rules.addresses import Network
from pyegress.rules.diff import Difference, compare
from pyegress.rules.firewall import EMPTY_SET, Entry, Firewall

HOST, OTHER = Network(4, 0xC0000201, 32), Network(4, 0xC0000202, 32)


def entry(text: str = "", verdict: Any = "accept", line: int = 0, **asked: Any) -> Entry:
    return Entry(line=line, text=text, verdict=verdict, **asked)


def firewall(*entries: Entry, families: Any = (4, 6)) -> Firewall:
    return Firewall(kind="nftables", families=families, entries=entries, policy="drop")


def difference(wanted: Firewall, live: Firewall) -> Difference:
    return compare([wanted], [live])


def test_text_comments_order_and_counters_make_no_difference() -> None:
    wanted = firewall(entry("a", line=3, network=HOST, comment="x"), entry(network=OTHER, dports=((80, 80),)))
    live = firewall(entry("b", network=OTHER, dports=((80, 80),), hits=5), entry("c", network=HOST, hits=1))
    found = difference(wanted, live)
    assert found.is_same and (found.wanted, found.live, found.never_hit) == (2, 2, ())


def test_missing_superfluous_and_never_hit() -> None:
    wanted = firewall(entry(network=HOST), entry(network=OTHER, dports=((80, 80),)))
    live = firewall(
        entry(network=HOST, hits=0), entry(network=OTHER, dports=((81, 81),), hits=3), entry(uids=((0, 0),))
    )
    found = difference(wanted, live)
    assert not found.is_same
    assert found.missing == wanted.entries[1:]
    assert found.superfluous == live.entries[1:]
    assert found.never_hit == live.entries[:1] and found.uncounted == 1


def test_never_hit_alone_is_no_difference() -> None:
    assert difference(firewall(entry(network=HOST)), firewall(entry(network=HOST, hits=0))).is_same


@pytest.mark.parametrize(
    "asked",
    [
        {"protocol": 6},
        {"network": HOST},
        {"dports": ((1, 1),)},
        {"sports": ((1, 1),)},
        {"oifname": "eth0"},
        {"uids": ((1, 1),)},
        {"cgroup": "a"},
        {"icmp_types": ((1, 1),)},
        {"established": True},
        {"loopback": True},
        {"unknown": ("what",)},
        {"family": 4},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_every_match_makes_a_difference(asked: dict[str, Any]) -> None:
    assert not difference(firewall(entry(**asked)), firewall(entry())).is_same
    assert difference(firewall(entry(**asked)), firewall(entry(**asked))).is_same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"dports": ((80, 80), (443, 443))}], [{"dports": ((443, 443),)}, {"dports": ((80, 80),)}]),
        ([{"dports": ((80, 81),)}], [{"dports": ((81, 81), (80, 80))}]),
        ([{"oifname": "lo"}], [{"loopback": True}]),
        ([{"family": 4, "network": HOST}], [{"network": HOST}]),
        ([{"family": 6, "protocol": 58}], [{"protocol": 58}]),
        ([{"established": True}], [{"family": 4, "established": True}, {"family": 6, "established": True}]),
        ([{"uids": ((1, 2), (3, 3))}], [{"uids": ((1, 3),)}]),
    ],
)
def test_other_words_for_the_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    a, b = (firewall(*(entry(**asked) for asked in asks)) for asks in (one, other))
    assert difference(a, b).is_same and difference(b, a).is_same


def test_only_what_lets_through_is_compared() -> None:
    assert difference(firewall(entry(verdict="drop"), entry(verdict="continue")), firewall()).is_same


def test_a_chain_of_one_family_is_half_of_one_for_both() -> None:
    both, v4 = firewall(entry(protocol=6)), firewall(entry(protocol=6), families=(4,))
    assert compare([both], [v4]).missing and not compare([both], [v4]).superfluous
    assert compare([both], [v4, firewall(entry(protocol=6), families=(6,))]).is_same


def test_rules_by_name_are_one() -> None:
    """Whatever their sets hold now; another name, port or owner makes a difference."""
    wanted = firewall(entry(network=HOST, name_set="name4_a", dports=((443, 443),)))
    live = firewall(
        entry("x", network=OTHER, name_set="name4_a", dports=((443, 443),), hits=0),
        entry("x", network=HOST, name_set="name4_a", dports=((443, 443),), hits=0),
    )
    found = difference(wanted, live)
    assert found.is_same and (found.wanted, found.live, len(found.never_hit)) == (1, 1, 1)
    empty = firewall(entry(family=4, name_set="name4_a", dports=((443, 443),), unknown=(EMPTY_SET,)))
    assert difference(wanted, empty).is_same
    for other in (
        entry(network=HOST, name_set="name4_b", dports=((443, 443),)),
        entry(network=HOST, dports=((443, 443),)),
        entry(network=HOST, name_set="name4_a", dports=((80, 80),)),
        entry(network=HOST, name_set="name4_a", dports=((443, 443),), uids=((0, 0),)),
    ):
        found = difference(wanted, firewall(other))
        assert (len(found.missing), len(found.superfluous)) == (1, 1)

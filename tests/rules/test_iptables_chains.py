# SPDX-License-Identifier: MIT
"""Chains are laid out so that reading them from top to bottom decides as the kernel does."""

from __future__ import annotations

import pytest

from pyegress.errors import InputError
from pyegress.rules import iptables_chains
from pyegress.rules.firewall import Entry
from pyegress.rules.iptables_chains import Chain, Table, laid_out
from pyegress.rules.iptables_rule import rule_of
from pyegress.rules.iptables_words import restore_words


def table(**chains: str) -> Table:
    """Rules of each chain, one a line."""
    return {
        name: Chain("accept", [rule_of(restore_words(line), 4, 0, line, None) for line in text.split("\n")])
        for name, text in chains.items()
    }


def brief(entry: Entry) -> tuple[str, str | None, object, tuple[str, ...]]:
    network = None if entry.network is None else str(entry.network)
    return entry.verdict, network, entry.dports, entry.unknown


def laid(**chains: str) -> list[tuple[str, str | None, object, tuple[str, ...]]]:
    return [brief(entry) for entry in laid_out(table(**chains))]


ONE, TWO = "-d 192.0.2.1", "-d 192.0.2.2"


def test_jump_in_its_place() -> None:
    assert laid(OUTPUT=f"{ONE} -j DROP\n-j A\n{TWO} -j DROP", A=f"{TWO} -j ACCEPT") == [
        ("drop", "192.0.2.1", None, ()),
        ("accept", "192.0.2.2", None, ()),
        ("drop", "192.0.2.2", None, ()),
    ]


def test_conditions_of_a_jump_hold_inside() -> None:
    """What can't match both is left out."""
    inside = f"{ONE} -p tcp --dport 1:9 -j ACCEPT\n-d 198.51.100.1 -j ACCEPT\n-p udp -j ACCEPT\n-o lo -j DROP"
    assert laid(
        OUTPUT="-d 192.0.2.0/24 -p tcp --dport 5:20 -o eth0 -m addrtype --dst-type X -j A", A=inside
    ) == [
        ("accept", "192.0.2.1", ((5, 9),), ("--dst-type X",)),
    ]


def test_all_kinds_of_conditions() -> None:
    outer = "-p icmp --icmp-type 8 -m owner --uid-owner 1-9 -m cgroup --path a -o eth0"
    inner = "-p icmp --icmp-type 8 -m owner --uid-owner 5-20 -m cgroup --path a/b -j DROP"
    (entry,) = laid_out(table(OUTPUT=f"{outer} -j A", A=inner))
    assert (entry.icmp_types, entry.uids, entry.cgroup, entry.oifname) == (
        ((8, 8),),
        ((5, 9),),
        "a/b",
        "eth0",
    )
    for never in ("--icmp-type 9", "-m owner --uid-owner 10", "-m cgroup --path ab", "-o eth1", "-o lo"):
        assert laid(OUTPUT=f"{outer} -j A", A=f"-p icmp {never} -j DROP") == []
    (entry,) = laid_out(table(OUTPUT="-j A", A="-m state --state ESTABLISHED -j B", B="-o lo -j ACCEPT"))
    assert entry.established and entry.loopback


def test_return_at_the_end_is_the_policy() -> None:
    """Where nothing follows, what is behind a RETURN is known."""
    chains = table(OUTPUT="-j A", A=f"{ONE} -j RETURN\n-j DROP")
    for policy in ("accept", "drop"):
        chains["OUTPUT"].policy = policy
        assert [brief(entry)[:2] for entry in laid_out(chains)] == [(policy, "192.0.2.1"), ("drop", None)]
    assert laid(OUTPUT=f"{ONE} -j RETURN\n-j DROP") == [
        ("accept", "192.0.2.1", None, ()),
        ("drop", None, None, ()),
    ]


def test_return_in_the_middle() -> None:
    """What comes behind it in its chain isn't asked by all; a chain that always returns ends there."""
    assert laid(OUTPUT=f"-j A\n{TWO} -j DROP", A=f"{ONE} -j RETURN\n-j DROP") == [
        ("drop", None, None, (f"behind: {ONE} -j RETURN",)),
        ("drop", "192.0.2.2", None, ()),
    ]
    known = "-m state --state ESTABLISHED -j RETURN"
    assert laid(OUTPUT=f"-j A\n{TWO} -j DROP", A=f"{known}\n{ONE} -j DROP\n-j RETURN\n-j DROP") == [
        ("drop", "192.0.2.1", None, ()),
        ("drop", "192.0.2.2", None, ()),
    ]


def test_goto_does_not_come_back() -> None:
    assert laid(OUTPUT=f"-g A\n{TWO} -j DROP", A=f"{ONE} -j DROP") == [
        ("drop", "192.0.2.1", None, ()),
        ("accept", None, None, ()),
    ]
    assert laid(OUTPUT=f"-j A\n{TWO} -j DROP", A=f"{ONE} -g B\n-j DROP", B="-p tcp -j ACCEPT") == [
        ("accept", "192.0.2.1", None, ()),
        ("drop", None, None, (f"behind: {ONE} -g B",)),
        ("drop", "192.0.2.2", None, ()),
    ]


def test_targets() -> None:
    """What logs goes on; what somebody else decides may drop."""
    assert laid(OUTPUT="-j LOG\n-p tcp\n-j NFQUEUE --queue-num 1\n-j NOWHERE") == [
        ("continue", None, None, ()),
        ("continue", None, None, ()),
        ("drop", None, None, ("-j NFQUEUE",)),
        ("drop", None, None, ("-j NOWHERE",)),
    ]


def test_chains_in_circles_end() -> None:
    assert laid(OUTPUT="-j A", A="-j OUTPUT") == [("drop", None, None, ("-j OUTPUT: leads too far",))]
    deep = {f"C{at}": f"-j C{at + 1}" for at in range(500)}
    ((verdict, _, _, (why,)),) = laid(OUTPUT="-j C0", **deep)
    assert (verdict, why[-15:]) == ("drop", ": leads too far")


def test_so_many_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_chains, "_MOST", 1000)
    wide = {f"C{at}": f"-j C{at + 1}\n-j C{at + 1}\n-j ACCEPT" for at in range(20)}
    with pytest.raises(InputError, match="chains lead to more than 1000 rules"):
        laid(OUTPUT="-j C0", **wide)


def test_no_output_chain() -> None:
    assert laid(FORWARD="-j DROP") == []

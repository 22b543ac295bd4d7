# SPDX-License-Identifier: MIT
"""What the real nft lists, of rules that pyegress doesn't write."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from pyegress.errors import InputError
from pyegress.rules.addresses import Network
from pyegress.rules.firewall import Entry
from pyegress.rules.read_nft_json import read_json
from tests.netns import needs_netfilter, own_netns

RULES = """
table inet a {
  set ports { type inet_service; elements = { 22, 80 }; }
  chain more { udp dport 53 accept; }
  chain out {
    type filter hook output priority 10; policy drop;
    ip daddr 192.0.2.1-192.0.2.3 tcp dport { 22, 80-90 } counter accept
    tcp dport @ports accept
    jump more
    ip saddr 192.0.2.9 accept
    meta skuid 1000 oifname "lo" accept
    ct state established,related accept
    tcp dport != 25 accept
    tcp dport 9 queue to 0
  }
}
table ip b { chain out { type filter hook output priority 0; icmp type echo-request accept; }; }
"""


def listed(rules: str) -> str:
    """The kernel's own words for it."""
    with own_netns():
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        return subprocess.run(
            ["nft", "-j", "-n", "list", "ruleset"], capture_output=True, check=True
        ).stdout.decode()


def entries(rules: str, flags: Sequence[str] = ("-n",), chains: str = "") -> tuple[Entry, ...]:
    """Those of a chain with these rules."""
    text = (
        "table inet t {\n" + chains.replace("} ", "}\n") + "chain o {\ntype filter hook output priority 0;\n"
    )
    with own_netns():
        subprocess.run(["nft", "-f", "-"], input=f"{text}{rules}\n}}\n}}\n".encode(), check=True)
        command = ["nft", "-j", *flags, "list", "ruleset"]
        (firewall,) = read_json(subprocess.run(command, capture_output=True, check=True).stdout.decode())
    return firewall.entries


@needs_netfilter
def test_rules_of_others() -> None:
    """By priority, sets as entries, chains where they are called, and what isn't understood as such."""
    rules = RULES.replace("    tcp dport 9 queue to 0\n", "")
    first, second = read_json(listed(rules))
    assert (first.families, second.families, second.policy) == ((4,), (4, 6), "drop")
    assert [(e.protocol, e.icmp_types) for e in first.entries] == [(1, ((8, 8),))]
    ranged = second.entries[:4]
    assert {e.network for e in ranged} == {Network(4, 0xC0000201, 32), Network(4, 0xC0000202, 31)}
    assert {e.dports for e in ranged} == {((22, 22),), ((80, 90),)}
    assert {e.hits for e in ranged} == {0}
    assert [e.dports for e in second.entries[4:7]] == [((22, 22),), ((80, 80),), ((53, 53),)]
    saddr, local, established, other = second.entries[7:]
    assert saddr.unknown and other.unknown
    assert (local.uids, local.loopback, established.established) == (((1000, 1000),), True, True)


@needs_netfilter
@pytest.mark.parametrize("flags", [["-n"], []])
def test_states(flags: list[str]) -> None:
    """First packets are new; as names and as numbers."""
    rules = """
    tcp dport 1 ct state new drop
    tcp dport 2 ct state new,established accept
    ct state { established, related } accept
    ct state invalid drop
    ct state untracked drop
    ct state != established drop
    meta nfproto ipv6 icmpv6 type { echo-request, nd-router-solicit } accept
    """
    one, two, both, invalid, untracked, other, icmp = entries(rules, flags)
    assert (one.established, one.dports, one.unknown) == (False, ((1, 1),), ())
    assert (two.established, two.dports, two.unknown) == (False, ((2, 2),), ())
    assert both.established and invalid.established
    assert untracked.unknown and other.unknown
    assert (icmp.family, icmp.icmp_types) == (6, ((128, 128), (133, 133)))


@needs_netfilter
def test_chains_of_chains() -> None:
    """What a chain asks for is asked behind a jump to it too; what a return or goto hides is not taken for sure."""
    found = entries(
        """
        tcp dport 1-99 counter jump inner
        udp dport 5 return
        goto last
        accept
        """,
        chains="""
        chain inner {
            ip daddr 192.0.2.1 accept
            tcp dport 9 drop
            ip daddr 192.0.2.2 return
            ip daddr 192.0.2.3 accept
            return
            accept
        }
        chain last { oifname "eth0" drop; }
        """,
    )
    near, narrower, behind, left, device, rest = found
    assert (str(near.network), near.protocol, near.dports, near.unknown) == ("192.0.2.1", 6, ((1, 99),), ())
    assert (narrower.verdict, narrower.unknown) == ("drop", ("asks twice for dports",))
    assert (str(behind.network), behind.unknown) == ("192.0.2.3", ("return before it",))
    assert (left.verdict, left.protocol, left.dports) == ("accept", 17, ((5, 5),))
    assert (device.verdict, device.oifname, rest.verdict, rest.oifname) == ("drop", "eth0", "accept", None)


@needs_netfilter
def test_what_only_counts_drops_nothing() -> None:
    """Marks do nothing; limits hold now and then; another destination lets through, to where isn't known."""
    mark, limited, quota, twice, level = entries(
        """
        meta mark set 5
        limit rate 1/second drop
        quota over 5 mbytes drop
        ip daddr 10.1.0.0/16 ip daddr 10.0.0.0/8 accept
        oifname "eth*" accept
        """
    )
    assert (mark.verdict, mark.unknown) == ("continue", ())
    assert (limited.verdict, limited.unknown) == ("drop", ("limit",))
    assert quota.unknown and twice.unknown and level.unknown


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": [{"rule": 1}]}'])
def test_no_list(text: str) -> None:
    """One line, whatever it is."""
    with pytest.raises(InputError, match="is not understood"):
        read_json(text)

# SPDX-License-Identifier: MIT
"""What the real nft lists, of rules that pyegress doesn't write."""

from __future__ import annotations

import subprocess

import pytest

from pyegress.errors import InputError
from pyegress.rules.addresses import Network
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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nftables": [{"rule": 1}]}'])
def test_no_list(text: str) -> None:
    """One line, whatever it is."""
    with pytest.raises(InputError, match="is not understood"):
        read_json(text)

# SPDX-License-Identifier: MIT
"""Sets of names in the kernel are found by the rules that look into them, and filled without losing anything."""

from __future__ import annotations

import json
import subprocess

import pytest

from pyegress.apply.namesets import NameSet, fill, graces, loaded
from pyegress.apply.programs import ProgramError
from pyegress.rules import ipset, nft
from pyegress.rules.addresses import Network, target_of
from pyegress.rules.hostnames import IPSET_PREFIX, NFT_PREFIX, set_name
from tests.netns import needs_netfilter, own_netns
from tests.rules.test_bynames import CDN, OTHER, made, seen
from tests.rules.test_ipset import load, needs_ipset, rules_of, sets_of

PLAN = made(seen(CDN, 443, "a.example"), seen("2001:db8::1", 443, "a.example"), seen(OTHER, 22))
SETS = {NameSet("a.example", 4, "nftables"), NameSet("a.example", 6, "nftables")}
NAME = set_name(NFT_PREFIX, "a.example", 4)


def addresses(*texts: str) -> list[Network]:
    """As numbers."""
    return [target.network for target in map(target_of, texts) if target is not None]


def load_nft() -> None:
    """Into this namespace."""
    load("".join(f"{line}\n" for line in nft.lines(PLAN, "pyegress", lambda path: True)), "nft", "-f", "-")


def held() -> dict[str, int]:
    """Addresses of the IPv4 set, with the seconds that each has left."""
    listed = json.loads(load("", "nft", "-j", "list", "set", "inet", "pyegress", NAME))["nftables"]
    (elements,) = [each["set"].get("elem", []) for each in listed if "set" in each]
    return {each["elem"]["val"]: each["elem"]["expires"] for each in elements}


@needs_netfilter
def test_time_begins_anew() -> None:
    """Of addresses that are there already; new ones come beside those that the name leads to no more."""
    with own_netns():
        load_nft()
        assert set(loaded("pyegress")) == SETS
        assert graces(loaded("pyegress"), "pyegress") == dict.fromkeys(SETS, 86_400)
        old = f"192.0.2.50 timeout 1d expires 100s, {OTHER} timeout 1d expires 100s"
        load(f"add element inet pyegress {NAME} {{ {old} }}", "nft", "-f", "-")
        assert fill(loaded("pyegress"), {"a.example": addresses(OTHER, "192.0.2.60")}, "pyegress") == 2
        found = held()
        assert set(found) == {CDN, OTHER, "192.0.2.50", "192.0.2.60"}
        assert found["192.0.2.50"] <= 100 < min(found[OTHER], found["192.0.2.60"])
        load(f"flush set inet pyegress {NAME}", "nft", "-f", "-")
        assert set(loaded("pyegress")) == SETS
        fill(loaded("pyegress"), {}, "pyegress")
        assert held() == {}


@needs_netfilter
def test_many_addresses() -> None:
    """Of one name, twice."""
    many = addresses(*(f"10.1.{at // 250}.{at % 250 + 1}" for at in range(2000)))
    with own_netns():
        load_nft()
        for _ in range(2):
            fill(loaded("pyegress"), {"a.example": many}, "pyegress")
        assert len(held()) == len(many) + 1


@needs_netfilter
def test_what_is_not_ours() -> None:
    """A set that a comment of another name leads to isn't filled; rules that are gone meanwhile are an error."""
    with own_netns():
        load_nft()
        sets = loaded("pyegress")
        rule = f"ip daddr @{NAME} tcp dport 1 accept comment"
        load(
            f'flush chain inet pyegress output; add rule inet pyegress output {rule} "b.example"',
            "nft",
            "-f",
            "-",
        )
        assert loaded("pyegress") == []
        subprocess.run(["nft", "delete", "table", "inet", "pyegress"], check=True)
        assert loaded("pyegress") == []
        with pytest.raises(ProgramError, match="^nft: .*No such file or directory"):
            fill(sets, {"a.example": addresses(CDN)}, "pyegress")


@needs_ipset
def test_sets_of_ipset() -> None:
    """Those that the chain PYEGRESS looks into."""
    with own_netns():
        load(sets_of(PLAN), "ipset", "restore")
        load(rules_of(PLAN, 4), "iptables-restore", "--noflush")
        made_set = set_name(IPSET_PREFIX, "a.example", 4)
        load(f"add {made_set} {OTHER} timeout 100\nadd {made_set} 192.0.2.50 timeout 100", "ipset", "restore")
        assert loaded("pyegress") == [NameSet("a.example", 4, "iptables")]
        assert list(graces(loaded("pyegress"), "pyegress").values()) == [86_400]
        assert fill(loaded("pyegress"), {"a.example": addresses(OTHER, "192.0.2.60")}, "pyegress") == 2
        saved = load("", "ipset", "save")
        found = [str(each) for each in ipset.read_text(saved)[made_set]]
        assert sorted(found) == sorted([CDN, OTHER, "192.0.2.50", "192.0.2.60"])
        left = {
            line.split()[2]: int(line.split()[4]) for line in saved.splitlines() if f"add {made_set}" in line
        }
        assert left["192.0.2.50"] <= 100 < left[OTHER]

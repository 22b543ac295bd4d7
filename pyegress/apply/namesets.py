# SPDX-License-Identifier: MIT
"""Sets of names' addresses that loaded rules look into: found, and filled again.

Addresses are added for as long as their set gives them, anew where they are there already; none is removed, so what a
name led to before is allowed until its time is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pyegress.apply import programs
from pyegress.rules import live
from pyegress.rules.addresses import Family, Network
from pyegress.rules.firewall import Firewall
from pyegress.rules.hostnames import IPSET_PREFIX, NFT_PREFIX, is_host_name, set_name

FAMILIES: tuple[Family, ...] = (4, 6)
_LINE = 512
"""Addresses in one statement."""


class NameSet(NamedTuple):
    """One of ours in the kernel."""

    name: str
    family: Family
    firewall: Literal["nftables", "iptables"]


def loaded(table: str) -> list[NameSet]:
    """Those that the rules of that nft table, or of our iptables chain, look into.

    A rule's comment tells the name. What somebody changed so that the set is not that name's is not ours to fill.
    """
    found = dict.fromkeys(_in(live.nft_table(table), NFT_PREFIX))
    for family in FAMILIES:
        found |= dict.fromkeys(_in(live.iptables_chain(family), IPSET_PREFIX))
    return list(found)


def fill(sets: Iterable[NameSet], addresses: Mapping[str, Sequence[Network]], table: str) -> int:
    """Add addresses by name, those for nft in one transaction; how many. Raises ProgramError where it isn't taken."""
    nft: list[str] = []
    ipset: list[str] = []
    count = 0
    for name, family, firewall in sets:
        mine = [str(each) for each in addresses.get(name, ()) if each.family == family]
        count += len(mine)
        if firewall == "nftables":
            nft += _nft(f"inet {table} {set_name(NFT_PREFIX, name, family)}", mine)
        else:
            ipset += [f"add {set_name(IPSET_PREFIX, name, family)} {each} -exist" for each in mine]
    if nft:
        programs.run("nft", "-f", "-", text=_text(nft))
    if ipset:
        programs.run("ipset", "restore", text=_text(ipset))
    return count


def _in(firewalls: Iterable[Firewall], prefix: str) -> Iterator[NameSet]:
    for firewall in firewalls:
        for entry in firewall.entries:
            name, family = entry.comment, entry.family
            if entry.name_set is None or name is None or family is None or not is_host_name(name):
                continue
            if entry.name_set == set_name(prefix, name, family):
                yield NameSet(name, family, firewall.kind)


def _nft(where: str, addresses: Sequence[str]) -> Iterator[str]:
    for at in range(0, len(addresses), _LINE):
        some = ", ".join(addresses[at : at + _LINE])
        # Before Linux 6.12 adding what is there leaves its time as it is, and deleting what isn't fails.
        for verb in ("add", "delete", "add"):
            yield f"{verb} element {where} {{ {some} }}"


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()

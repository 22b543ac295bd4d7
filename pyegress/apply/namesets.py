# SPDX-License-Identifier: MIT
"""Sets of names' addresses that loaded rules look into: found, and filled again.

Addresses are added for as long as their set gives them, anew where they are there already; none is removed, so what a
name led to before is allowed until its time is over.
"""

from __future__ import annotations

import json
import re
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
_CREATED = re.compile(r"^create (\S+) .*?\btimeout ([0-9]+)", re.MULTILINE)


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


def graces(sets: Iterable[NameSet], table: str) -> dict[NameSet, int]:
    """For how many seconds each has an address; those without an end are left out."""
    wanted = list(sets)
    found: dict[tuple[str, str], int] = {}
    if any(each.firewall == "nftables" for each in wanted):
        listed = json.loads(programs.run("nft", "-j", "-t", "list", "table", "inet", table))["nftables"]
        made = [each["set"] for each in listed if "set" in each]
        found |= {("nftables", each["name"]): int(each.get("timeout", 0)) for each in made}
    if any(each.firewall == "iptables" for each in wanted):
        saved = programs.run("ipset", "list", "-terse", "-output", "save")
        found |= {("iptables", name): int(seconds) for name, seconds in _CREATED.findall(saved)}
    seconds = {each: found.get((each.firewall, set_of(each))) for each in wanted}
    return {each: grace for each, grace in seconds.items() if grace}


def set_of(name_set: NameSet) -> str:
    """What it is called in the kernel."""
    prefix = NFT_PREFIX if name_set.firewall == "nftables" else IPSET_PREFIX
    return set_name(prefix, name_set.name, name_set.family)


def fill(sets: Iterable[NameSet], addresses: Mapping[str, Sequence[Network]], table: str) -> int:
    """Add addresses by name, those for nft in one transaction; how many. Raises ProgramError where it isn't taken."""
    nft: list[str] = []
    ipset: list[str] = []
    count = 0
    for name_set in sets:
        mine = [str(each) for each in addresses.get(name_set.name, ()) if each.family == name_set.family]
        count += len(mine)
        if name_set.firewall == "nftables":
            nft += _nft(f"inet {table} {set_of(name_set)}", mine)
        else:
            ipset += [f"add {set_of(name_set)} {each} -exist" for each in mine]
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

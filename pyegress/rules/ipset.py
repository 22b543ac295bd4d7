# SPDX-License-Identifier: MIT
"""Sets of names' addresses for iptables, as a file for `ipset restore`, and the same read again.

The file adds: what sets hold already stays for its time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.rules import wording
from pyegress.rules.addresses import Family, Network
from pyegress.rules.bynames import name_sets
from pyegress.rules.hostnames import IPSET_PREFIX, is_set_name, set_name
from pyegress.rules.shape import Plan

ENDING = ".ipset"
"""Of the file beside those for iptables-restore."""
Sets = dict[str, tuple[Network, ...]]
"""Addresses by the name of their set."""
_TYPES: dict[Family, str] = {4: "inet", 6: "inet6"}
_CREATE = re.compile(r"create (\S+) hash:ip family (inet6?)((?: [a-z]+ [0-9a-fx]+)*)(?: -exist)?")
_ADD = re.compile(r"add (\S+) ([0-9a-f.:]+)(?: timeout [0-9]+)?(?: -exist)?")


def lines(plan: Plan, families: tuple[Family, ...]) -> Iterator[str]:
    """The file."""
    yield "# pyegress: addresses of names, for ipset; files for iptables-restore look into these sets"
    yield "# load, also again, before those: ipset restore < FILE"
    yield f"# remove, after the rules: ipset destroy SET for each set, all of which begin with {IPSET_PREFIX}"
    seconds = plan.options.grace_s
    for (name, family), addresses in name_sets(plan.rules).items():
        if family not in families:
            continue
        made = set_name(IPSET_PREFIX, name, family)
        yield f"# {name}"
        yield f"create {made} hash:ip family {_TYPES[family]} timeout {seconds} -exist"
        for address in addresses:
            yield from (f"# {line}" for line in wording.other_names(name, address, plan))
            yield f"add {made} {address} timeout {seconds} -exist"


def beside(name: str) -> str:
    """The file that was made with one for iptables-restore."""
    return re.sub(r"\.v[46]$", "", name) + ENDING


def read_text(text: str, *, strict: bool = True) -> Sets:
    """Our sets of such a file, or of what `ipset save` lists (not `strict`: with those of others, which are left out).

    InputError with the line of what isn't understood.
    """
    found: dict[str, dict[Network, None]] = {}
    families: dict[str, Family] = {}
    for number, line in enumerate(text.split("\n"), 1):
        statement = line.strip()
        if not statement or statement.startswith("#"):
            continue
        create, add = _CREATE.fullmatch(statement), _ADD.fullmatch(statement)
        name = create[1] if create else add[1] if add else ""
        if create and is_set_name(name):
            families[name] = 4 if create[2] == "inet" else 6
            found.setdefault(name, {})
        elif add and name in found and (address := _address(add[2], families[name])):
            found[name][address] = None
        elif strict:
            raise InputError(f"ipset: line {number}: {display(statement[:60])}: is not understood")
    return {name: tuple(addresses) for name, addresses in found.items()}


def _address(text: str, family: Family) -> Network | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return Network(family, int(address), address.max_prefixlen) if address.version == family else None

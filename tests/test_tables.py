# SPDX-License-Identifier: MIT
"""The kernel's tables while they are changed, step by step, and the counters of rules."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from pyegress.destinations import DestinationFilterOptions, DestinationFilters
from pyegress.options import Ports
from pyegress.prefixes import LongestPrefix, Network, Verdict, table
from pyegress.tables import (
    PORTS,
    RuleNumbers,
    Step,
    Tables,
    hiding,
    moving,
    showing,
    without_only,
)

NETWORKS = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address << 28, length), strict=False),
        st.integers(0, 15),
        st.integers(0, 6),
    ),
    max_size=4,
)
PORT_NUMBERS = st.lists(st.integers(1, 6), max_size=3)
ADDRESSES = [b"\0" * 10 + b"\xff\xff" + bytes((first, 0, 0, 1)) for first in range(0, 256, 16)]


def tables(ignore_ports: list[int], only_ports: list[int], ignore: list[Any], only: list[Any]) -> Tables:
    """Tables of such rules, without switches."""
    ports = {port: Verdict(0, False, True) for port in only_ports}
    ports |= {port: Verdict(0, True, port in only_ports) for port in ignore_ports}
    cidrs = table([(0, network) for network in ignore], [(1, network) for network in only])
    with patch("pyegress.tables.PORTS", range(1, 8)):
        return Tables(*without_only(ports, bool(only_ports), cidrs, bool(only)))


class Kernel:
    """What tables hold now."""

    def __init__(self, held: Tables) -> None:
        self.ports = dict(held.ports)
        self.cidrs: dict[Network, Verdict] = dict(held.cidrs)

    def take(self, step: Step) -> None:
        """Change an entry."""
        holder: dict[Any, Verdict] = self.ports if step.table == "ports" else self.cidrs
        if step.verdict is None:
            del holder[step.key]
        else:
            holder[step.key] = step.verdict

    def hides(self) -> dict[tuple[int, bytes], bool]:
        """Which connections are hidden."""
        longest = LongestPrefix(self.cidrs)
        networks = {address: longest.find(address) for address in ADDRESSES}
        found = {}
        for port in range(1, 8):
            at_port = self.ports.get(port)
            for address, verdict in networks.items():
                found[port, address] = any(at is not None and at.ignore for at in (at_port, verdict))
        return found


RULES = st.builds(tables, PORT_NUMBERS, PORT_NUMBERS, NETWORKS, NETWORKS)


@given(RULES, RULES)
def test_what_both_agree_on_holds_at_every_step(old: Tables, new: Tables) -> None:
    """Nothing that old and new rules both hide is seen for a moment, and nothing that neither hides is missed."""
    kernel, before, after = Kernel(old), Kernel(old).hides(), Kernel(new).hides()
    same = {where: hidden for where, hidden in before.items() if after[where] == hidden}
    for steps in (hiding, moving, showing):
        for step in steps(old, new):
            kernel.take(step)
            now = kernel.hides()
            assert {where: now[where] for where in same} == same, step
    assert kernel.ports == new.ports and kernel.cidrs == new.cidrs


@given(PORT_NUMBERS, PORT_NUMBERS, NETWORKS, NETWORKS)
def test_tables_without_switches_hide_the_same(
    ignore_ports: list[int], only_ports: list[int], ignore: list[Any], only: list[Any]
) -> None:
    """As the filters of user space do, whose `only-` rules are switches."""
    filters = DestinationFilters(
        DestinationFilterOptions(
            allow_loopback=True,
            ignore_port=tuple(Ports(port, port) for port in ignore_ports),
            only_port=tuple(Ports(port, port) for port in only_ports),
            ignore_cidr=tuple(ignore),
            only_cidr=tuple(only),
        )
    )
    hidden = Kernel(tables(ignore_ports, only_ports, ignore, only)).hides()
    for (port, address), is_hidden in hidden.items():
        assert filters.keep(6, address, port) is not is_hidden


def test_only_port_names_all_others() -> None:
    """Each with a number that has no counter."""
    ports, cidrs = without_only({443: Verdict(0, False, True)}, True, {}, True)
    assert len(ports) == len(PORTS) and sum(verdict.ignore for verdict in ports.values()) == len(PORTS) - 1
    assert cidrs.keys() == {ip_network("0.0.0.0/0"), ip_network("::/0")}


def test_rule_keeps_its_count() -> None:
    """While it is in force, when it comes back, and when its counter went to another."""
    counters = [0, 0, 0]
    numbers = RuleNumbers(3)
    assert numbers.assign(["a", "b"], lambda: counters) == [0, 1]
    counters[:2] = [5, 7]
    assert numbers.assign(["b"], lambda: counters) == [1]
    assert numbers.assign(["a", "b"], lambda: counters) == [0, 1]
    assert numbers.assign(["c", "b"], lambda: counters) == [2, 1]
    counters[2] = 2
    assert numbers.assign(["d", "c"], lambda: counters) == [0, 2]
    counters[0] += 1
    assert numbers.totals(counters) == {"a": 5, "b": 7, "c": 2, "d": 1}
    assert numbers.used == 3

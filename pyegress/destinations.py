# SPDX-License-Identifier: MIT
"""Destination filters: which protocols, loopback addresses, ports and networks are hidden.

One numbering of rules serves both ways of filtering: tables for the kernel, and `judge` for packets in user space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from pyegress.losses import Losses
from pyegress.options import Cidr, Ports
from pyegress.plugin import Options
from pyegress.prefixes import LongestPrefix, Network, Verdict, in_networks, table

PACKET = 256
"""Stands for frames of AF_PACKET, whatever they carry: no protocol has that number."""
PROTOCOL_NUMBERS: dict[str, tuple[int, ...]] = {
    "tcp": (6,),
    "udp": (17,),
    "udplite": (136,),
    "icmp": (1, 58),
    "sctp": (132,),
    "packet": (PACKET,),
}
"""Of those that options name; `other` is what none of them is."""
_NAMED = frozenset(number for numbers in PROTOCOL_NUMBERS.values() for number in numbers)
Protocol = Literal["tcp", "udp", "udplite", "icmp", "sctp", "packet", "other"]
T = TypeVar("T", Network, Ports)


class DestinationFilterOptions(Options, frozen=True, kw_only=True):
    """What every input can leave out by where it goes."""

    allow_loopback: Annotated[bool, Meta(description="report connections to 127.0.0.0/8 and ::1")] = False
    protocol: Annotated[
        tuple[Protocol, ...],
        Meta(
            description="report only this protocol; icmp: of both versions, packet: what AF_PACKET sockets send "
            "(ebpf), other: any other number"
        ),
    ] = ()
    ignore_cidr: Annotated[tuple[Cidr, ...], Meta(description="hide destinations in this network")] = ()
    only_cidr: Annotated[tuple[Cidr, ...], Meta(description="hide destinations outside these networks")] = ()
    ignore_port: Annotated[tuple[Ports, ...], Meta(description="hide this destination port or range")] = ()
    only_port: Annotated[tuple[Ports, ...], Meta(description="hide other destination ports")] = ()
    ignore_name: Annotated[
        tuple[str, ...],
        Meta(
            description="hide destinations that this name led to; *.example.com: one label, **.example.com: any"
        ),
    ] = ()
    only_name: Annotated[
        tuple[str, ...],
        Meta(description="hide destinations with other names (as ignore-name); those without stay"),
    ] = ()


class DestinationFilters:
    """Rules in the order that they are tried: protocol, loopback, ports, networks."""

    def __init__(self, options: DestinationFilterOptions) -> None:
        self._options = options
        self._labels: list[str] = []
        self.cidrs: dict[Network, Verdict] = table(
            self._number("ignore-cidr", options.ignore_cidr),
            self._number("only-cidr", options.only_cidr),
        )
        self.ports: dict[int, Verdict] = _port_table(
            self._number("ignore-port", options.ignore_port),
            self._number("only-port", options.only_port),
        )
        self._protocols = frozenset(
            number for name in options.protocol for number in PROTOCOL_NUMBERS.get(name, ())
        )
        self._longest = LongestPrefix(self.cidrs)
        self.hits: list[int] = [0] * len(self._labels)
        """By rule number: what an ignore-rule hid, what an only-rule let through."""
        self.hidden: dict[str, int] = {"protocol": 0, "loopback": 0, "port": 0, "cidr": 0}
        """By what they were hidden for."""

    def __len__(self) -> int:
        return len(self._labels)

    def keep(self, protocol: int, dest: bytes, dport: int | None, count: int = 1) -> bool:
        """Whether packets to this destination (16 bytes) are to be reported; counts those that are not."""
        why = self._judge(protocol, dest, dport, count)
        if why is not None:
            self.hidden[why] += count
        return why is None

    @property
    def labels(self) -> list[str]:
        """By rule number."""
        return self._labels

    def put(self, losses: Losses, source: str) -> None:
        """Show what was hidden, as one source's."""
        hits: Counter[str] = Counter()
        for label, count in zip(self._labels, self.hits, strict=True):
            hits[label] += count
        put_destinations(losses, source, hits, self.hidden)

    def _judge(self, protocol: int, dest: bytes, dport: int | None, count: int) -> str | None:
        if self._options.protocol and not (
            protocol in self._protocols or ("other" in self._options.protocol and protocol not in _NAMED)
        ):
            return "protocol"
        if not self._options.allow_loopback and is_loopback(dest):
            return "loopback"
        if self.ports and self._is_hidden(self.ports.get(dport or 0), bool(self._options.only_port), count):
            return "port"
        if self.cidrs and self._is_hidden(self._longest.find(dest), bool(self._options.only_cidr), count):
            return "cidr"
        return None

    def _is_hidden(self, verdict: Verdict | None, has_only: bool, count: int) -> bool:
        if verdict is None:
            return has_only
        self.hits[verdict.rule] += count
        return verdict.ignore or (has_only and not verdict.only)

    def _number(self, option: str, values: tuple[T, ...]) -> list[tuple[int, T]]:
        """Give each value its rule number."""
        numbered = []
        for value in values:
            numbered.append((len(self._labels), value))
            self._labels.append(f"{option}:{value}")
        return numbered


is_loopback = in_networks((ip_network("127.0.0.0/8"), ip_network("::1/128")))
"""Whether 16 bytes (IPv4 as ::ffff:a.b.c.d) are in 127.0.0.0/8 or ::1."""


def put_destinations(losses: Losses, source: str, hits: Mapping[str, int], hidden: Mapping[str, int]) -> None:
    """Show hits by label of the rule, and what was hidden for the rest, as one source's."""
    outside = dict(hidden)
    for label, count in hits.items():
        if label.startswith("ignore-"):
            outside[label.partition(":")[0].removeprefix("ignore-")] -= count
        put_rule(losses, source, label, count)
    losses.put(
        "skipped",
        f"to loopback (-I {source}:allow-loopback:true shows them)",
        outside.pop("loopback"),
        source,
    )
    losses.put("skipped", "by protocol", outside.pop("protocol"), source)
    for what, count in outside.items():
        losses.put("skipped", f"outside only-{what}", count, source)


def is_of_destination(label: str) -> bool:
    """Whether it is the label of a rule for ports or networks."""
    return label.startswith(("ignore-port:", "only-port:", "ignore-cidr:", "only-cidr:"))


def put_rule(losses: Losses, source: str, label: str, hits: int) -> None:
    """Show a rule's hits: only-rules let through, the others hide."""
    stage = "matched" if label.startswith("only-") else "skipped"
    losses.put(stage, label if label.startswith("outside") else f"by {label}", hits, source)


def _port_table(ignore: list[tuple[int, Ports]], only: list[tuple[int, Ports]]) -> dict[int, Verdict]:
    found: dict[int, Verdict] = {}
    # The first rule that names a port decides, ignore before only: so later ones must not overwrite.
    for rule, ports in only:
        for port in range(ports.first, ports.last + 1):
            found.setdefault(port, Verdict(rule, False, True))
    for rule, ports in reversed(ignore):
        for port in range(ports.first, ports.last + 1):
            found[port] = Verdict(rule, True, port in found and found[port].only)
    return found

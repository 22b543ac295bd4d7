# SPDX-License-Identifier: MIT
"""Addresses and networks as numbers, and their one canonical text, whatever the Python."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Literal, NamedTuple

Family = Literal[4, 6]
BITS: dict[Family, int] = {4: 32, 6: 128}
_SOCKET_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAPPED = 0xFFFF
_LINK_LOCAL = {4: (0xA9FE << 16, 16), 6: (0xFE80 << 112, 10)}


class Network(NamedTuple):
    """`first` has no host bits."""

    family: Family
    first: int
    prefix: int
    """Its length; that of an address is the family's whole one."""

    @property
    def addresses(self) -> int:
        return 1 << BITS[self.family] - self.prefix

    @property
    def is_link_local(self) -> bool:
        """Whether it holds on one link only, so that a rule needs the interface."""
        first, prefix = _LINK_LOCAL[self.family]
        return self.prefix >= prefix and (self.first ^ first) >> BITS[self.family] - prefix == 0

    def __str__(self) -> str:
        """`192.0.2.1`, `2001:db8::/32`: without a length where it is one address, IPv6 always in hex."""
        text = str(ipaddress.IPv4Address(self.first)) if self.family == 4 else _text6(self.first)
        return text if self.prefix == BITS[self.family] else f"{text}/{self.prefix}"


class Target(NamedTuple):
    """An address with the zone that was written behind it."""

    network: Network
    zone: str | None


@lru_cache(65536)
def target_of(text: str) -> Target | None:
    """What an address means, an IPv4-mapped one as IPv4; None where packets can't be sent to it."""
    # A fifth of what ipaddress takes, which is most of what a destination costs.
    bare, percent, zone = text.partition("%")
    family: Family = 6 if ":" in bare else 4
    try:
        number = int.from_bytes(socket.inet_pton(_SOCKET_FAMILIES[family], bare), "big")
    except (OSError, ValueError):
        return None
    if percent and (family == 4 or not zone or "%" in zone):
        return None
    if family == 6 and number >> 32 == _MAPPED:
        family, number = 4, number & 0xFFFF_FFFF
    return Target(Network(family, number, BITS[family]), zone or None) if number else None


def _text6(number: int) -> str:
    """RFC 5952; newer Pythons write mapped addresses with dots, which not every firewall reads."""
    text = str(ipaddress.IPv6Address(number))
    if "." not in text:
        return text
    low = number & 0xFFFF_FFFF
    return f"{text.rpartition(':')[0]}:{low >> 16:x}:{low & 0xFFFF:x}"

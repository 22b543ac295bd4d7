# SPDX-License-Identifier: MIT
"""What nft's words and numbers mean for an entry: in its files and in its JSON."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from pyegress.rules.addresses import Network
from pyegress.rules.firewall import Range

PROTOCOLS = {
    "tcp": 6,
    "udp": 17,
    "icmp": 1,
    "igmp": 2,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "sctp": 132,
    "udplite": 136,
}
ICMP_TYPES = {
    1: {
        "echo-reply": 0,
        "destination-unreachable": 3,
        "redirect": 5,
        "echo-request": 8,
        "time-exceeded": 11,
        "parameter-problem": 12,
    },
    58: {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "nd-router-solicit": 133,
        "nd-router-advert": 134,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "nd-redirect": 137,
        "mld2-listener-report": 143,
    },
}
"""By protocol, as nft calls them."""
_NEVER_FIRST: frozenset[str | int] = frozenset(("invalid", "established", "related", 1, 2, 4))
_NEW: frozenset[str | int] = frozenset(("new", 8))
"""States of connections, as nft calls them and as numbers."""
_TOLD = frozenset(("line", "text", "comment", "hits"))
"""What a match tells rather than asks; the last one holds."""

Way = dict[str, Any]
"""Fields of an entry."""


def both(way: Way, more: Way) -> Way:
    """What asks for both; ValueError where that is more than an entry can hold."""
    for key in way.keys() & more.keys() - _TOLD:
        if way[key] != more[key]:
            raise ValueError(f"asks twice for {key}")
    return {**way, **more}


def states(asked: Iterable[str | int]) -> Way:
    """What states of connections mean for first packets: those are new ones."""
    found = set(asked)
    if found & _NEW:
        return {}
    if not found <= _NEVER_FIRST:
        raise ValueError("connection states")
    return {"established": True}


def networks(text: str, family: int | None = None) -> Iterator[Network]:
    """Those that an address, a network or a range of addresses is; ValueError for anything else."""
    if "%" in text:
        raise ValueError(text)
    first, dash, last = text.partition("-")
    parts: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]
    if dash:
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
        if low.version != high.version:
            raise ValueError(text)
        parts = ipaddress.summarize_address_range(low, high)
    else:
        parts = (ipaddress.ip_network(text, strict=False),)
    for part in parts:
        if family not in (None, part.version):
            raise ValueError(text)
        yield Network(4 if part.version == 4 else 6, int(part.network_address), part.prefixlen)


def numbers(text: str, end: int) -> Range:
    """One below `end`, or a range of them; ValueError for anything else."""
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high < end:
        raise ValueError(text)
    return low, high


def ports(text: str) -> Range:
    """Or a service's name."""
    if text[:1].isdecimal():
        return numbers(text, 65536)
    try:
        port = socket.getservbyname(text)
    except OSError as error:
        raise ValueError(text) from error
    return port, port


def protocol_number(text: str) -> int:
    """Or its name; KeyError for one that isn't known."""
    return numbers(text, 256)[0] if text.isdecimal() else PROTOCOLS[text]

# SPDX-License-Identifier: MIT
"""`ignore-cidr` and `only-cidr` as one table for longest-prefix look-up, so that the kernel looks up once.

An address is ignored when any ignored prefix holds it, however specific another one is; so each prefix carries
what every wider one decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Network = IPv4Network | IPv6Network
_MAPPED = 0xFFFF << 32
_MAPPED_BITS = 96


class Verdict(NamedTuple):
    """What holds for all addresses whose longest matching prefix is this one."""

    rule: int
    ignore: bool
    only: bool


def table(
    ignore: Sequence[tuple[int, Network]], only: Sequence[tuple[int, Network]]
) -> dict[Network, Verdict]:
    """Verdicts by prefix, from (rule number, prefix) pairs. The rule is the widest one that decides."""
    ignoring, wanting = _first_rules(ignore), _first_rules(only)
    lengths = {
        version: sorted({n for v, n, _ in (*ignoring, *wanting) if v == version}) for version in (4, 6)
    }
    result: dict[Network, Verdict] = {}
    for _, network in (*ignore, *only):
        if network in result:
            continue
        ignored = wanted = None
        address = int(network.network_address)
        for length in lengths[network.version]:
            if length > network.prefixlen:
                break
            key = (network.version, length, address >> (network.max_prefixlen - length))
            ignored = ignoring.get(key) if ignored is None else ignored
            wanted = wanting.get(key) if wanted is None else wanted
        rule = ignored if ignored is not None else wanted
        assert rule is not None
        result[network] = Verdict(rule, ignored is not None, wanted is not None)
    return result


def _first_rules(rules: Iterable[tuple[int, Network]]) -> dict[tuple[int, int, int], int]:
    """The first rule of each (version, prefix length, that many leading bits): fast to look up."""
    found: dict[tuple[int, int, int], int] = {}
    for rule, network in rules:
        bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        found.setdefault((network.version, network.prefixlen, bits), rule)
    return found


class LongestPrefix:
    """Looks addresses (16 bytes, IPv4 as ::ffff:a.b.c.d) up in a table of verdicts, as the kernel's tries do."""

    def __init__(self, verdicts: Mapping[Network, Verdict]) -> None:
        self._by_length: dict[int, dict[int, Verdict]] = {}
        for network, verdict in verdicts.items():
            length, address = network.prefixlen, int(network.network_address)
            if network.version == 4:
                length, address = length + _MAPPED_BITS, address | _MAPPED
            self._by_length.setdefault(length, {})[address >> (128 - length)] = verdict
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, address: bytes) -> Verdict | None:
        """The verdict of the longest prefix that holds the address."""
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            # An IPv6 prefix as short as ::/0 must not take IPv4 with it.
            if length < _MAPPED_BITS and number >> 32 == _MAPPED >> 32:
                break
            found = self._by_length[length].get(number >> (128 - length))
            if found is not None:
                return found
        return None


def in_networks(networks: Iterable[Network]) -> Callable[[bytes], bool]:
    """Whether 16 bytes are an address in one of these networks."""
    table = LongestPrefix({network: Verdict(0, True, False) for network in networks})
    return lambda address: table.find(address) is not None

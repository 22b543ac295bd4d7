# SPDX-License-Identifier: MIT
"""CIDR tables: one longest-prefix look-up decides as all rules together do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from pyegress.prefixes import LongestPrefix, Network, Verdict, table

Address = IPv4Address | IPv6Address
Rules = list[tuple[int, Network]]
Decision = tuple[int | None, bool, bool]
NOTHING: Decision = (None, False, False)


def rules(*prefixes: str, first: int = 0) -> Rules:
    """Prefixes numbered from `first`."""
    return [(number, ip_network(prefix)) for number, prefix in enumerate(prefixes, first)]


class Trie:
    """What the kernel's LPM trie answers from a table."""

    def __init__(self, verdicts: dict[Network, Verdict]) -> None:
        self._found = {(n.version, n.prefixlen, int(n.network_address)): v for n, v in verdicts.items()}
        self._lengths = {
            version: sorted({n.prefixlen for n in verdicts if n.version == version}, reverse=True)
            for version in (4, 6)
        }

    def find(self, address: Address) -> Decision:
        """The verdict of the longest prefix that holds the address."""
        bits = address.max_prefixlen
        for length in self._lengths[address.version]:
            key = (address.version, length, int(address) >> (bits - length) << (bits - length))
            if key in self._found:
                return self._found[key]
        return NOTHING


def oracle(address: Address, ignore: Rules, only: Rules) -> Decision:
    """The same from every rule, one after the other."""

    def widest(given: Rules) -> int | None:
        holding = [(n.prefixlen, at, rule) for at, (rule, n) in enumerate(given) if address in n]
        return min(holding)[2] if holding else None

    ignored, wanted = widest(ignore), widest(only)
    rule = ignored if ignored is not None else wanted
    return rule, ignored is not None, wanted is not None


def edges(network: Network) -> Iterator[Address]:
    """First and last address of a network, and those just outside."""
    first, last = int(network.network_address), int(network.broadcast_address)
    made = type(network.network_address)
    yield from (made(first), made(last))
    yield from (made(at) for at in (first - 1, last + 1) if 0 <= at < 1 << network.max_prefixlen)


def decide(address: str, ignore: Sequence[str] = (), only: Sequence[str] = ()) -> Decision:
    """What a table of these prefixes says of an address; `only` rules are numbered after those of `ignore`."""
    return Trie(table(rules(*ignore), rules(*only, first=len(ignore)))).find(ip_address(address))


def test_no_rules_make_an_empty_table() -> None:
    """Nothing configured costs nothing."""
    assert table([], []) == {}


@pytest.mark.parametrize(
    ("address", "decision"),
    [
        ("10.0.0.0", (0, True, False)),
        ("10.255.255.255", (0, True, False)),
        ("192.0.2.9", (1, True, False)),
        ("9.255.255.255", NOTHING),
        ("11.0.0.0", NOTHING),
        ("192.0.3.0", NOTHING),
        ("2001:db8::", (2, True, False)),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", (2, True, False)),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", NOTHING),
        ("2001:db9::", NOTHING),
    ],
)
def test_an_address_in_any_ignored_prefix_is_ignored(address: str, decision: Decision) -> None:
    """Prefixes of one option are a union, from first to last address."""
    assert decide(address, ignore=["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]) == decision


@pytest.mark.parametrize("only", ["10.1.0.0/16", "10.1.2.3/32", "10.0.0.0/8", "0.0.0.0/0"])
def test_ignore_wins_however_specific_the_only_is(only: str) -> None:
    """An ignored address is ignored inside a narrower, an equal and a wider wanted prefix."""
    assert decide("10.1.2.3", ignore=["10.0.0.0/8"], only=[only]) == (0, True, True)


def test_ignore_inside_only_is_a_hole() -> None:
    """Around an ignored prefix the wider wanted one still holds."""
    hole = {"ignore": ["10.1.0.0/16"], "only": ["10.0.0.0/8"]}
    assert decide("10.1.0.0", **hole) == (0, True, True)
    assert decide("10.0.255.255", **hole) == (1, False, True)
    assert decide("10.2.0.0", **hole) == (1, False, True)


def test_the_widest_prefix_that_decides_gives_the_rule() -> None:
    """Hits of nested prefixes of one option go to the outer one, in whatever order they stand."""
    for order in (["10.0.0.0/8", "10.1.0.0/16"], ["10.1.0.0/16", "10.0.0.0/8"]):
        assert decide("10.1.2.3", ignore=order) == (order.index("10.0.0.0/8"), True, False)
        assert decide("10.1.2.3", only=order) == (order.index("10.0.0.0/8"), False, True)


def test_a_prefix_given_twice_counts_for_the_first() -> None:
    """The second rule with the same prefix decides nothing."""
    assert decide("10.1.2.3", ignore=["10.0.0.0/8", "10.0.0.0/8"]) == (0, True, False)


@pytest.mark.parametrize(("everything", "other"), [("0.0.0.0/0", "::1"), ("::/0", "127.0.0.1")])
def test_a_prefix_of_no_bits_holds_all_of_its_family_and_none_of_the_other(
    everything: str, other: str
) -> None:
    """IPv4 rules say nothing of IPv6 addresses, nor the other way round."""
    for edge in edges(ip_network(everything)):
        assert decide(str(edge), ignore=[everything]) == (0, True, False)
    assert decide(other, ignore=[everything]) == NOTHING


def random_rules(random_: random.Random, count: int, first: int) -> Rules:
    """Prefixes of any length and both families, close together so that they nest and repeat."""
    found: Rules = []
    for number in range(first, first + count):
        length = random_.choice((0, 1, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32))
        if random_.random() < 0.5:
            bits = random_.getrandbits(2) << 30 | random_.getrandbits(3) << 14 | random_.getrandbits(2)
            found.append((number, ip_network((bits, length), strict=False)))
        else:
            high = random_.getrandbits(2) << 30 | random_.getrandbits(3) << 14 | random_.getrandbits(2)
            length6 = random_.choice((length, 64 + length, 127, 128))
            found.append((number, ip_network((high << 96 | high, length6), strict=False)))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_table_decides_as_all_rules_together(seed: int) -> None:
    """Rule number, ignore and only agree with trying each rule, at the edges of every prefix and anywhere."""
    random_ = random.Random(seed)
    ignore = random_rules(random_, random_.randrange(12), 0)
    only = random_rules(random_, random_.randrange(12), len(ignore))
    trie = Trie(table(ignore, only))
    tried = [address for _, network in (*ignore, *only) for address in edges(network)]
    tried += [IPv4Address(random_.getrandbits(32)) for _ in range(50)]
    tried += [IPv6Address(random_.getrandbits(128)) for _ in range(50)]
    for address in tried:
        assert trie.find(address) == oracle(address, ignore, only), address


def test_ten_thousand_prefixes() -> None:
    """A long list is one table that decides as the list does."""
    random_ = random.Random(10_000)
    networks: list[Network] = [
        ip_network((random_.getrandbits(32), random_.choice((8, 16, 20, 24, 32))), strict=False)
        for _ in range(6000)
    ]
    networks += [
        ip_network(
            (0x2001 << 112 | random_.getrandbits(112), random_.choice((32, 48, 64, 128))), strict=False
        )
        for _ in range(4000)
    ]
    numbered = list(enumerate(networks))
    ignore, only = numbered[::2], numbered[1::2]
    made = table(ignore, only)
    assert made.keys() == set(networks)
    trie = Trie(made)
    for network in random_.sample(networks, 100):
        for address in edges(network):
            assert trie.find(address) == oracle(address, ignore, only), address


@pytest.mark.parametrize("seed", range(5))
def test_longest_prefix_finds_what_the_kernel_finds(seed: int) -> None:
    """The same verdicts as the kernel's tries, for both families in one table of 16-byte addresses."""
    made = random.Random(seed)
    prefixes = ["0.0.0.0/0", "::/0", "::ffff:0:0/95"]
    prefixes += [f"{made.randrange(256)}.{made.randrange(4)}.0.0/{made.randrange(4, 33)}" for _ in range(50)]
    prefixes += [f"2001:db8:{made.randrange(4):x}::/{made.randrange(20, 129)}" for _ in range(50)]
    given = [ip_network(prefix, strict=False) for prefix in made.sample(prefixes, 60)]
    verdicts = table(list(enumerate(given)), [])
    trie, longest = Trie(verdicts), LongestPrefix(verdicts)
    for address in (edge for network in given for edge in edges(network)):
        mapped = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        if address.version == 6 and isinstance(address, IPv6Address) and address.ipv4_mapped:
            continue
        assert (longest.find(mapped) or NOTHING) == trie.find(address)

# SPDX-License-Identifier: MIT
"""Directions: what leaves the host is ours only if nobody else began it."""

from __future__ import annotations

from ipaddress import ip_network

from pyegress.directions import Directions, reverse
from pyegress.prefixes import in_networks
from tests.test_destinations import packed

LOCAL = in_networks((ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")))


def flow(src: str, sport: int, dst: str, dport: int) -> bytes:
    """The first member of `struct egress_packet`."""
    ports = sport.to_bytes(2, "little") + dport.to_bytes(2, "little")
    return packed(src) + packed(dst) + ports + b"\x11\x04\0\0"


OURS = flow("192.0.2.1", 40000, "198.51.100.1", 53)
THEIRS = flow("198.51.100.1", 40000, "192.0.2.1", 53)


def test_reverse_swaps_both_ends() -> None:
    """Twice is the flow itself."""
    assert reverse(OURS) == flow("198.51.100.1", 53, "192.0.2.1", 40000)
    assert reverse(reverse(OURS)) == OURS


def test_who_sends_first_begins() -> None:
    """An answer of ours to a packet from outside is not ours; an answer to us changes nothing."""
    directions = Directions(LOCAL)
    assert directions.is_ours(OURS, None)
    assert not directions.is_ours(reverse(OURS), None)
    assert directions.is_ours(OURS, None)
    assert not directions.is_ours(THEIRS, None)
    assert not directions.is_ours(reverse(THEIRS), None)


def test_known_others_are_told_without_judging() -> None:
    """Only what was judged before and isn't ours."""
    directions = Directions(LOCAL)
    assert not directions.is_known_other(THEIRS)
    directions.is_ours(THEIRS, None)
    directions.is_ours(OURS, None)
    assert directions.is_known_other(THEIRS)
    assert not directions.is_known_other(OURS)


def test_link_layer_knows_better_than_addresses() -> None:
    """What the capture says was sent leaves the host whatever its address; loopback is always received."""
    directions = Directions(LOCAL)
    assert directions.leaves(packed("203.0.113.1"), True)
    assert not directions.leaves(packed("192.0.2.1"), False)
    assert Directions(in_networks((ip_network("127.0.0.0/8"),))).leaves(packed("127.0.0.1"), False)


def test_copy_that_comes_in_again_is_not_ours() -> None:
    """As on a bridge that is captured with its members: the flow is ours, and each packet of it counts once."""
    directions = Directions(LOCAL)
    assert directions.is_ours(OURS, True)
    assert not directions.is_ours(OURS, False)
    assert directions.is_ours(OURS, True)


def test_ours_stays_ours_when_forgotten() -> None:
    """The table is bounded; the answers to us that are left in it don't make our flow an answer."""
    directions = Directions(LOCAL, flows=2)
    assert directions.is_ours(OURS, None)
    assert not directions.is_ours(reverse(OURS), None)
    assert not directions.is_ours(THEIRS, None)
    assert directions.is_ours(OURS, None)

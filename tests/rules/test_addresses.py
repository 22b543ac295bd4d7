# SPDX-License-Identifier: MIT
"""One canonical text for each address, and none for what packets can't be sent to."""

from __future__ import annotations

import pytest

from pyegress.rules.addresses import Network, target_of


@pytest.mark.parametrize(
    ("given", "family", "text", "zone"),
    [
        ("64:ff9b::192.0.2.33", 6, "64:ff9b::c000:221", None),
        ("::ffff:192.0.2.1", 4, "192.0.2.1", None),
        ("2001:0DB8:0:0::1", 6, "2001:db8::1", None),
        ("fe80::1%eth0", 6, "fe80::1", "eth0"),
        ("224.0.0.251", 4, "224.0.0.251", None),
    ],
)
def test_canonical(given: str, family: int, text: str, zone: str | None) -> None:
    """Hex for IPv6 whatever the Python, a mapped address as IPv4, the zone apart."""
    target = target_of(given)
    assert target is not None
    assert (target.network.family, str(target.network), target.zone) == (family, text, zone)


@pytest.mark.parametrize("given", ["0.0.0.0", "::", "-j", "", "192.0.2.1/24", "1.2.3"])
def test_no_destination(given: str) -> None:
    """Neither nothing nor anything else."""
    assert target_of(given) is None


def test_networks() -> None:
    """With a length unless it is one address."""
    assert str(Network(4, 0xC0000200, 24)) == "192.0.2.0/24"
    assert Network(4, 0xC0000200, 24).addresses == 256
    assert str(Network(6, 0xFFFF_C000_0201, 128)) == "::ffff:c000:201"
    assert str(Network(6, 1 << 127, 1)) == "8000::/1"


def test_link_local() -> None:
    """Only what lies in one as a whole."""
    assert [Network(4, 0xA9FE0000, prefix).is_link_local for prefix in (15, 16, 32)] == [False, True, True]
    assert [Network(6, 0xFE80 << 112, prefix).is_link_local for prefix in (9, 10, 128)] == [False, True, True]
    assert not Network(6, 0xFEC0 << 112, 128).is_link_local

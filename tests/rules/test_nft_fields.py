# SPDX-License-Identifier: MIT
"""Words and numbers of nft."""

from __future__ import annotations

import pytest

from pyegress.rules.nft_fields import both, networks, numbers, ports, protocol_number, states


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("192.0.2.9/24", ["192.0.2.0/24"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ("2001:db8::-2001:db8::2", ["2001:db8::/127", "2001:db8::2"]),
        ("::ffff:192.0.2.1", ["::ffff:c000:201"]),
    ],
)
def test_networks(text: str, shown: list[str]) -> None:
    """A range is several."""
    assert [str(each) for each in networks(text)] == shown


@pytest.mark.parametrize(
    "text", ["", "fe80::1%eth0", "192.0.2.1-2001:db8::", "192.0.2.2-192.0.2.1", "1.2.3.4/33", "a"]
)
def test_no_networks(text: str) -> None:
    """ValueError, never a guess."""
    with pytest.raises(ValueError, match="."):
        list(networks(text))


def test_family() -> None:
    """The one that is asked for."""
    with pytest.raises(ValueError, match="192"):
        list(networks("192.0.2.1", 6))


def test_numbers() -> None:
    """Ranges, services, protocols."""
    assert (numbers("1-9", 10), ports("ssh"), protocol_number("udp"), protocol_number("255")) == (
        (1, 9),
        (22, 22),
        17,
        255,
    )
    for read, text in ((ports, "65536"), (ports, "9-1"), (ports, "no such"), (protocol_number, "256")):
        with pytest.raises(ValueError, match="."):
            read(text)


def test_states() -> None:
    """Of a first packet: new."""
    assert (states(["new", "related"]), states([8]), states([2, 4])) == ({}, {}, {"established": True})
    with pytest.raises(ValueError, match="states"):
        states(["untracked"])


def test_both() -> None:
    """The same twice is once; more than one is no entry."""
    assert both({"protocol": 6, "line": 1}, {"protocol": 6, "line": 2}) == {"protocol": 6, "line": 2}
    with pytest.raises(ValueError, match="asks twice for protocol"):
        both({"protocol": 6}, {"protocol": 17})

# SPDX-License-Identifier: MIT
"""Destination filters in user space: what the kernel's tables decide, packet by packet."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pyegress.destinations import (
    PACKET,
    DestinationFilterOptions,
    DestinationFilters,
    is_loopback,
    put_rule,
)
from pyegress.losses import Losses
from pyegress.options import Ports

TCP, UDP, ICMP = 6, 17, 1


def packed(text: str) -> bytes:
    """The 16 bytes of an address."""
    raw = ip_address(text).packed
    return raw if len(raw) == 16 else b"\0" * 10 + b"\xff\xff" + raw


def filters(**options: Any) -> DestinationFilters:
    """Filters with these options."""
    return DestinationFilters(DestinationFilterOptions(**options))


@pytest.mark.parametrize("text", ["127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_is_hidden_unless_allowed(text: str) -> None:
    """All of 127.0.0.0/8 and ::1, and nothing else."""
    hidden, shown = filters(), filters(allow_loopback=True)
    assert is_loopback(packed(text))
    assert not hidden.keep(TCP, packed(text), 443)
    assert shown.keep(TCP, packed(text), 443)
    assert hidden.hidden["loopback"] == 1 and shown.hidden["loopback"] == 0


@pytest.mark.parametrize("text", ["126.255.255.255", "128.0.0.1", "::2", "192.0.2.1"])
def test_others_are_not_loopback(text: str) -> None:
    """The neighbours of both ranges are shown."""
    assert not is_loopback(packed(text))
    assert filters().keep(TCP, packed(text), 443)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"ignore_port": (Ports(53, 53), Ports(8000, 8100))}, [443, 8101, 13568, None]),
        ({"only_port": (Ports(443, 443), Ports(8000, 8001))}, [443, 8000]),
        ({"only_port": (Ports(1, 8100),), "ignore_port": (Ports(443, 443),)}, [53, 8000, 8100]),
    ],
)
def test_ports(options: dict[str, Any], kept: list[int | None]) -> None:
    """Ignored ones are hidden, with only-rules all others; what has no port is in no range."""
    chosen = filters(**options)
    tried = [53, 443, 8000, 8100, 8101, 13568, None]
    assert [port for port in tried if chosen.keep(UDP, packed("192.0.2.1"), port)] == kept
    assert chosen.hidden["port"] == len(tried) - len(kept)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"ignore_cidr": ("192.0.2.0/24", "2001:db8::/32")}, ["198.51.100.1", "2001:db9::1"]),
        ({"ignore_cidr": ("0.0.0.0/0",)}, ["2001:db8::1", "2001:db9::1"]),
        ({"ignore_cidr": ("::/0",)}, ["192.0.2.1", "198.51.100.1"]),
        ({"only_cidr": ("192.0.2.0/24",)}, ["192.0.2.1"]),
        ({"only_cidr": ("192.0.0.0/8", "2001:db8::1"), "ignore_cidr": ("192.0.2.0/25",)}, ["2001:db8::1"]),
    ],
)
def test_networks(options: dict[str, Any], kept: list[str]) -> None:
    """Families are kept apart, ignoring beats wanting."""
    chosen = filters(**{key: tuple(map(ip_network, texts)) for key, texts in options.items()})
    tried = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db9::1"]
    assert [text for text in tried if chosen.keep(TCP, packed(text), 443)] == kept


def test_protocol() -> None:
    """With a protocol named, all others are hidden."""
    chosen = filters(protocol=("udp",))
    assert [n for n in (TCP, UDP, ICMP) if chosen.keep(n, packed("192.0.2.1"), None)] == [UDP]
    assert chosen.hidden["protocol"] == 2


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("icmp",), [1, 58]),
        (("udplite", "sctp"), [132, 136]),
        (("other",), [47, 253]),
        (("packet",), [PACKET]),
        (("tcp", "other"), [6, 47, 253]),
    ],
)
def test_protocols_by_name(names: tuple[str, ...], kept: list[int]) -> None:
    """A name may stand for several numbers, `other` for what has none."""
    chosen = filters(protocol=names)
    tried = (1, 6, 17, 47, 58, 132, 136, 253, PACKET)
    assert [n for n in tried if chosen.keep(n, packed("192.0.2.1"), None)] == kept


def test_every_rule_says_what_it_did() -> None:
    """Hits by rule, and what was outside all only-rules, add up to what was hidden."""
    chosen = filters(
        ignore_port=(Ports(53, 53),),
        only_port=(Ports(53, 53), Ports(443, 443)),
        ignore_cidr=(ip_network("192.0.2.0/24"),),
    )
    for port in (53, 53, 80, 443):
        chosen.keep(TCP, packed("198.51.100.1"), port)
    chosen.keep(TCP, packed("192.0.2.1"), 443, count=5)
    losses = Losses()
    chosen.put(losses, "nflog")
    assert losses.lines() == [
        "matched: 6 by only-port:443",
        "skipped: 5 by ignore-cidr:192.0.2.0/24",
        "skipped: 2 by ignore-port:53",
        "skipped: 1 outside only-port",
    ]


def test_inputs_add_up() -> None:
    """Two inputs with the same rule show one sum, however often each says its own."""
    losses = Losses()
    for source, hits in (("ebpf", 1), ("nflog", 2), ("ebpf", 3)):
        put_rule(losses, source, "ignore-port:53", hits)
    assert losses.lines() == ["skipped: 5 by ignore-port:53"]

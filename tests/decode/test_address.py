# SPDX-License-Identifier: MIT
"""Addresses: each as text, a bounded number of them remembered."""

from __future__ import annotations

import pytest

from pyegress.decode import address
from pyegress.decode.address import Addresses
from tests.decode.frames import packed


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1",
        "127.8.9.1",
        "255.255.255.255",
        "2001:db8::1",
        "::1",
        "64:ff9b::c000:221",
        "fe80::2",
        "ff02::fb",
    ],
)
def test_text(text: str) -> None:
    """An IPv4-mapped address is shown as IPv4, and nothing else is."""
    assert Addresses()[packed(text)] == text


@pytest.mark.parametrize("text", ["0.0.0.0", "::"])
def test_unspecified(text: str) -> None:
    """The address of nobody is none."""
    assert Addresses()[packed(text)] is None


def test_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of all addresses does not fill the memory, and what is forgotten is made again."""
    monkeypatch.setattr(address, "ADDRESSES_KEPT", 3)
    addresses = Addresses()
    for _ in range(2):
        for number in range(10):
            assert addresses[packed(f"192.0.2.{number}")] == f"192.0.2.{number}"
            assert len(addresses) <= 3

# SPDX-License-Identifier: MIT
"""Resolvers that are configured: the files' as long as they say so, or those that were named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.decode.address import Addresses
from pyegress.names import servers
from pyegress.names.servers import Servers
from tests.apply.test_namesets import addresses

SIX = b"\x20\x01\x0d\xb8" + bytes(11) + b"\x35"
UPSTREAM = b"\0" * 10 + b"\xff\xff\xc6\x33\x64\x01"


def packed(*numbers: int) -> bytes:
    """IPv4."""
    return b"\0" * 10 + b"\xff\xff" + bytes(numbers)


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second had passed."""
    monkeypatch.setattr(servers, "LOOK_NS", 0)


def test_of_files(tmp_path: Path) -> None:
    """As resolv.conf(5) has it; whom a local one asks only where that is asked; what changes is seen."""
    path, upstream = tmp_path / "resolv.conf", tmp_path / "upstream"
    upstream.write_text("nameserver 198.51.100.1\n")
    found = Servers(path=path, upstream=(tmp_path / "none", upstream))
    assert packed(127, 0, 0, 1) in found
    path.write_bytes(
        b"# nameserver 192.0.2.9\nsearch \xff\nnameserver\nnameserver 192.0.2.53 # one\nnameserver x\n"
        b"nameserver 2001:db8::35\nnameserver fe80::1%eth0\n"
    )
    assert Addresses()[SIX] == "2001:db8::35"
    believed = (packed(192, 0, 2, 53), SIX, b"\xfe\x80" + bytes(13) + b"\1")
    assert [each in found for each in believed] == [True] * 3
    assert [each in found for each in (packed(127, 0, 0, 1), packed(192, 0, 2, 9), UPSTREAM)] == [False] * 3
    for local in ("127.0.0.53", "::1"):
        path.write_text(f"nameserver {local}\n")
        assert UPSTREAM in found
        path.write_text("nameserver 192.0.2.53\n")
        assert UPSTREAM not in found


def test_named_ones(tmp_path: Path) -> None:
    """Alone."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.53\n")
    found = Servers(addresses("192.0.2.54", "2001:db8::35"), path)
    given = packed(192, 0, 2, 54), SIX, packed(192, 0, 2, 53), "192.0.2.54"
    assert [each in found for each in given] == [True, True, False, False]

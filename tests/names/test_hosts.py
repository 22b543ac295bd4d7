# SPDX-License-Identifier: MIT
"""/etc/hosts: names by address, read again when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyegress.names import hosts
from pyegress.names.hosts import MOST_OF_ADDRESS, Hosts


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second had passed."""
    monkeypatch.setattr(hosts, "LOOK_NS", 0)


def test_names_of_a_file(tmp_path: Path) -> None:
    """In its order, in lower case, whatever is in it."""
    path = tmp_path / "hosts"
    path.write_bytes(
        b"# none\n192.0.2.1 A.example b # c\n2001:DB8:0::1\tsix.example.\n0.0.0.0 ad.example\n192.0.2.1 b d,e\n"
        b"no-address x\n192.0.2.2\n192.0.2.3 a\xff\x1b\n"
    )
    found = Hosts(path)
    assert found.names("192.0.2.1") == ("a.example", "b", "d\\044e")
    assert found.names("2001:db8::1") == ("six.example",)
    assert found.names("192.0.2.3") == ("a\udcff\x1b",)
    assert [found.names(address) for address in ("0.0.0.0", "192.0.2.2", "192.0.2.4")] == [(), (), ()]


def test_changes_are_seen(tmp_path: Path) -> None:
    """A file that is written anew, goes and comes back."""
    path = tmp_path / "hosts"
    found = Hosts(path)
    assert found.names("192.0.2.1") == ()
    path.write_text("192.0.2.1 a\n")
    assert found.names("192.0.2.1") == ("a",)
    path.write_text("192.0.2.1 b\n")
    os.utime(path, ns=(1, 1))
    assert found.names("192.0.2.1") == ("b",)
    path.unlink()
    assert found.names("192.0.2.1") == ()


def test_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is read in part, and an address has few names."""
    path = tmp_path / "hosts"
    path.write_text("".join(f"192.0.2.1 n{number}\n" for number in range(100)))
    found = Hosts(path)
    assert found.names("192.0.2.1") == tuple(f"n{number}" for number in range(MOST_OF_ADDRESS))
    monkeypatch.setattr(hosts, "MOST_BYTES", 20)
    other = Hosts(path)
    assert other.names("192.0.2.1") == ("n0",)
    assert other.cut

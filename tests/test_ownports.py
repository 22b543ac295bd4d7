# SPDX-License-Identifier: MIT
"""The program's own ports are known before they are used, and not for ever."""

from __future__ import annotations

import socket
import time

import pytest

from pyegress import ownports


def test_reserved_port_is_known_and_free() -> None:
    """A connection can be made from it."""
    port = ownports.reserve()
    assert ownports.is_own(port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = socket.create_connection(listener.getsockname(), source_address=("", port))
        made.close()


def test_port_for_datagrams() -> None:
    """Free for them."""
    with socket.socket(type=socket.SOCK_DGRAM) as made:
        made.bind(("", ownports.reserve(socket.SOCK_DGRAM)))
        assert ownports.is_own(made.getsockname()[1])


def test_others_are_not() -> None:
    """Nor is what has no port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not ownports.is_own(listener.getsockname()[1])
    assert not ownports.is_own(None)
    assert not ownports.is_own(0)


def test_another_may_get_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is nobody's."""
    port = ownports.reserve()
    later = time.monotonic() + ownports.KEPT_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not ownports.is_own(port)


def test_only_so_many_are_kept() -> None:
    """The newest."""
    ports = [ownports.reserve() for _ in range(600)]
    assert len(ownports._used) <= 256
    assert all(ownports.is_own(port) for port in ports[-100:])

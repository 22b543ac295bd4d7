# SPDX-License-Identifier: MIT
"""What a service manager hears, on a socket as its own is."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from pyegress.service import STATUS_S, Service


class Manager:
    """The socket of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(60)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """The lines of the next datagram."""
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        """As one that has ended."""
        self._socket.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_each_state(tmp_path: Path, kind: str) -> None:
    """In the words of sd_notify(3)."""
    manager = Manager(str(tmp_path / "notify") if kind == "path" else f"@pyegress-test-{os.getpid()}")
    service = Service(manager.environment)
    assert service.is_there
    service.ready("0 connections")
    assert manager.heard() == ["READY=1", "STATUS=0 connections"]
    before_us = time.monotonic_ns() // 1000
    service.reloading()
    state, clock = manager.heard()
    assert state == "RELOADING=1"
    assert before_us <= int(clock.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    service.stopping()
    assert manager.heard() == ["STOPPING=1"]
    manager.close()


def test_beat(tmp_path: Path) -> None:
    """A status is told when it is another one; life, only of what is well."""
    manager = Manager(str(tmp_path / "notify"))
    service = Service({**manager.environment, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())})
    assert service.beat_s == 20
    service.beat(True, "1 connection")
    service.beat(True, "1 connection")
    service.beat(False, "1 connection")
    service.beat(False, "2 connections")
    assert manager.heard() == ["WATCHDOG=1", "STATUS=1 connection"]
    assert manager.heard() == ["WATCHDOG=1"]
    assert manager.heard() == ["STATUS=2 connections"]
    manager.close()


def test_watchdog_of_another_process(tmp_path: Path) -> None:
    """It isn't answered in its place."""
    manager = Manager(str(tmp_path / "notify"))
    service = Service({**manager.environment, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"})
    assert service.beat_s == STATUS_S
    service.beat(True, "1 connection")
    assert manager.heard() == ["STATUS=1 connection"]
    manager.close()


def test_nobody_listens(tmp_path: Path) -> None:
    """Without a manager, or with one that is gone, nothing happens."""
    assert not Service({}).is_there
    Service({}).ready("0 connections")
    Service({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("0 connections")

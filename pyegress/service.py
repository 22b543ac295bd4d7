# SPDX-License-Identifier: MIT
"""What a service manager is told: sd_notify(3). One datagram, so that no library is needed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

STATUS_S = 30.0
"""How often the status is told where there is no watchdog."""


class Service:
    """For one thread. Tells nobody where `$NOTIFY_SOCKET` is not set; a manager that is gone stops nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._is_watched = False
        self._status = ""
        self.beat_s = STATUS_S
        """How often `beat` is to be called."""
        watchdog_us = environment.get("WATCHDOG_USEC", "")
        if watchdog_us.isdecimal() and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._is_watched = True
            # Two may be late before it is taken for dead.
            self.beat_s = min(STATUS_S, max(int(watchdog_us) / 3e6, 0.01))

    @property
    def is_there(self) -> bool:
        """Whether anybody is told."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """It does what it is for, or does so again after `reloading`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads its files again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It is on its way out."""
        self._tell("STOPPING=1")

    def beat(self, is_well: bool, status: str) -> None:
        """What it has come to; and unless it hangs, that it lives."""
        lines = ["WATCHDOG=1"] if is_well and self._is_watched else []
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={status}")
        self._tell(*lines)

    def _tell(self, *lines: str) -> None:
        if not (lines and self._address):
            return
        # A name that begins with @ is an abstract one.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as own:
            own.settimeout(1)
            own.sendto("\n".join(lines).encode(), address)

# SPDX-License-Identifier: MIT
"""A real systemd-journald, in a mount namespace with a /run of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = "/usr/lib/systemd/systemd-journald"
_PATIENCE_S = 30

needs_journald = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(_PROGRAM).exists() or not shutil.which("journalctl"),
    reason="needs root, systemd-journald and journalctl",
)


class Journald:
    """Runs until it is stopped; can be started again with what it had written."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.start()

    def start(self) -> None:
        """Start it and wait for its sockets."""
        script = (
            f"mount --make-rprivate / && mount --bind {self._run} /run"
            " && mkdir -p /run/systemd/journal /run/log/journal && cd / && exec " + _PROGRAM
        )
        self._process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, "journald ended"
            assert time.monotonic() < deadline, "journald does not start"

    @property
    def socket(self) -> str:
        """Of the native protocol."""
        return str(self._run / "systemd/journal/socket")

    @property
    def dev_log(self) -> str:
        """Of syslog."""
        return str(self._run / "systemd/journal/dev-log")

    def entries(self) -> list[dict[str, Any]]:
        """What it has from pyegress."""
        self._inside("journalctl", "--sync")
        command = ("journalctl", "--no-pager", "--all", "-o", "json", "-t", "pyegress")
        return [json.loads(line) for line in self._inside(*command).stdout.splitlines()]

    def stop(self) -> None:
        """End it; its sockets stay as dead names, as after a crash."""
        self._process.kill()
        self._process.wait(_PATIENCE_S)

    def _answers(self) -> bool:
        return self._inside("journalctl", "--sync", check=False).returncode == 0

    def _inside(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-t", str(self._process.pid), "-m", *command],
            capture_output=True,
            text=True,
            check=check,
            timeout=_PATIENCE_S,
        )

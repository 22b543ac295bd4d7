# SPDX-License-Identifier: MIT
"""Connections to report on."""

from __future__ import annotations

from collections.abc import Iterable

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.report.model import Gathered
from tests.logs.records import https

NOW = 1_790_000_000_000_000_000
HOUR = 3600 * 10**9
NGINX = Process(
    pid=2,
    name="nginx",
    exe="/usr/sbin/nginx",
    uid=33,
    user="www-data",
    unit="nginx.service",
    cmdline="nginx: w",
)


def connection(**changes: object) -> Connection:
    """One by nginx, unless changed."""
    return https(**{"ts": NOW, "process": NGINX, **changes})


def gathered(*connections: Connection | Iterable[Connection], losses: Losses | None = None) -> Gathered:
    """All of them, folded."""
    made = Gathered(losses or Losses())
    for one in connections:
        made.add([one] if isinstance(one, Connection) else one)
    return made

# SPDX-License-Identifier: MIT
"""Benchmarks: one file per subject, each of which measures and returns tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    """What one subject found; the first column names what was measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def cpu_s(pid: int) -> float:
    """User and system time so far, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

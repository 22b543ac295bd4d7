# SPDX-License-Identifier: MIT
"""Benchmarks: one file per subject, each of which measures and returns tables."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

PIPE_COLUMNS = 160


class Table(NamedTuple):
    """What one subject found; the first column names what was measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def console() -> Console:
    """Where tables are shown."""
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def show(where: Console, table: Table) -> None:
    """Print a table."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    where.print(shown)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads so far, to the nanosecond where `cpu_s` counts ticks."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def cpu_s(pid: int) -> float:
    """User and system time so far, proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

# SPDX-License-Identifier: MIT
"""Run all benchmarks as root and print a table of each."""

from __future__ import annotations

import argparse
import os
import sys

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from bench import Table, capture, kernel, logs, loki, lookup, process, queue, ring, rules, storm
from tests import guest

PIPE_COLUMNS = 120


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; no guest where none can run")
    quick: bool = parser.parse_args().quick
    if os.geteuid() != 0:
        print("bench: needs root, to load BPF programs", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    for subject in ring, process, storm, capture, lookup, queue, logs, rules:
        _show(console, subject.measure(quick))
    try:
        _show(console, loki.measure(quick))
    except guest.Unavailable as error:
        print(f"bench: loki: left out: {error}", file=sys.stderr)
        if not quick:
            return 1
    try:
        for name in kernel.KERNELS[: 1 if quick else None]:
            _show(console, kernel.measure(name, quick))
    except guest.Unavailable as error:
        print(f"bench: kernel: left out: {error}", file=sys.stderr)
        return 0 if quick else 1
    return 0


def _show(console: Console, table: Table) -> None:
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())

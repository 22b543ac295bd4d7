# SPDX-License-Identifier: MIT
"""Run all benchmarks as root and print a table of each."""

from __future__ import annotations

import argparse
import os
import sys

from bench import (
    burst,
    capture,
    console,
    kernel,
    logs,
    loki,
    lookup,
    names,
    process,
    queue,
    ring,
    rules,
    show,
    storm,
    whole,
)
from bench.figures import FILE, record, worse
from tests import guest


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; no guest where none can run")
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep the instructions in {FILE.name}, to compare later ones with",
    )
    given = parser.parse_args()
    quick: bool = given.quick
    if os.geteuid() != 0:
        print("bench: needs root, to load BPF programs", file=sys.stderr)
        return 1
    shown = console()
    for subject in ring, whole, process, storm, capture, lookup, names, queue, logs, rules:
        show(shown, subject.measure(quick))
    try:
        show(shown, loki.measure(quick))
    except guest.Unavailable as error:
        print(f"bench: loki: left out: {error}", file=sys.stderr)
        if not quick:
            return 1
    try:
        if not quick:
            show(shown, burst.measure(burst.CONNECTS))
        for name in kernel.KERNELS[: 1 if quick else None]:
            table, found = kernel.measure(name, quick)
            show(shown, table)
            if not quick:
                show(shown, kernel.measure_names(name))
            if name != kernel.KERNELS[0]:
                continue
            if given.record:
                record(found)
            if slower := worse(found):
                print(f"bench: more instructions than in {FILE.name}: {'; '.join(slower)}", file=sys.stderr)
                return 1
    except guest.Unavailable as error:
        print(f"bench: kernel: left out: {error}", file=sys.stderr)
        return 0 if quick else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

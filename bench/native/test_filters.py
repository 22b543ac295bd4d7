# SPDX-License-Identifier: MIT
"""Filters on a batch: of programs that were judged before, and of new ones."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.made import BATCH, connections, process
from pyegress.filters import FilterOptions, ProcessFilters

GLOBS = FilterOptions(
    ignore_exe=("/opt/*/bin/*", "/srv/**", "/usr/lib/*/agent"),
    ignore_cmdline=("*--quiet*", "* http://*.example.org/*"),
    ignore_parent=("cron*", "[ab]gent"),
    ignore_unit=("user@*.service", "backup-*.timer"),
    ignore_user=("www-*",),
)


def test_known_programs(benchmark: BenchmarkFixture) -> None:
    filters, batch = ProcessFilters(GLOBS), connections(programs=16)
    assert len(benchmark(filters.apply, batch)) == BATCH


def test_new_programs(benchmark: BenchmarkFixture) -> None:
    processes = [process(number) for number in range(BATCH)]

    def judge() -> int:
        # Anew each time: judged programs are remembered.
        filters = ProcessFilters(GLOBS)
        return sum(filters.judge(each) is None for each in processes)

    assert benchmark(judge) == BATCH

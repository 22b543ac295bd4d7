# SPDX-License-Identifier: MIT
"""Benchmarks: one file per subject, each of which measures and returns tables."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """What one subject found; the first column names what was measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

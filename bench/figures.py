# SPDX-License-Identifier: MIT
"""Instructions that were measured before: a figure that got worse ends `make bench` with an error."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.inside import Results

FILE = Path(__file__).with_name("figures.json")
WORSE_BY = 0.05
DRIFT = 10
"""Figures repeat to this many instructions."""


class Figures(msgspec.Struct, frozen=True):
    """What calls cost more with hooks attached, in one kernel."""

    kernel: str
    """Its package: another one's code differs, so its figures aren't comparable."""
    added: dict[str, dict[str, int]]
    """By case and kind of hook."""


def figures_of(results: Results, package: str) -> Figures:
    """What was measured, as it is kept."""
    added = {
        case.name: {kind: attached - case.bare for kind, attached in case.attached.items()}
        for case in results.cases
    }
    return Figures(package, added)


def record(figures: Figures) -> None:
    """Keep it as what later ones are compared with."""
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")


def worse(figures: Figures) -> list[str]:
    """Cases that got worse than what is kept by more than WORSE_BY; those of another kernel are not compared."""
    kept = msgspec.json.decode(FILE.read_bytes(), type=Figures)
    if kept.kernel != figures.kernel:
        return []
    return [
        f"{name}, {kind}: {before:+,} before, {figures.added[name][kind]:+,} now"
        for name, kinds in kept.added.items()
        for kind, before in kinds.items()
        if name in figures.added and figures.added[name][kind] > before * (1 + WORSE_BY) + DRIFT
    ]

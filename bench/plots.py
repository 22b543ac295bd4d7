# SPDX-License-Identifier: MIT
"""Pictures for docs/performance.md, from the figures that are kept in this folder: `make plots`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import msgspec
from matplotlib.figure import Figure

from bench import peers
from bench.figures import FILE, Figures
from bench.peers import LOAD_TITLES, LOADS, Load, Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "img"
KINDS = ("fentry", "kprobe")
PEERS = tuple(f"peers-{title}.png" for title in LOAD_TITLES.values())
LOADS_FILE = "loads.png"
GOALS: dict[str, tuple[int, int]] = {
    "goal: datagram of a known flow": (400, 650),
    "goal: 256 addresses in turn": (560, 850),
    "goal: datagram dropped by CIDR": (400, 650),
    "goal: connect reported": (1300, 2000),
    "goal: connect dropped by CIDR": (700, 1100),
    "goal: loopback, which is left out": (200, 430),
}
"""Instructions by fentry and by kprobe."""
BEFORE: dict[str, tuple[int, int]] = {
    "goal: datagram of a known flow": (1728, 2204),
    "goal: datagram dropped by CIDR": (1228, 1543),
    "goal: connect reported": (2171, 4712),
    "goal: connect dropped by CIDR": (1251, 2206),
}
"""The same before the work on them."""
_OWN, _OTHER, _PALE, _INK, _MUTED = "#1f6f8b", "#8a9aa5", "#d5dde2", "#222222", "#666666"


def main() -> None:
    """Write all pictures."""
    # So that the same figures make the same file, wherever.
    matplotlib.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "pyegress"})
    FOLDER.mkdir(exist_ok=True)
    figures = msgspec.json.decode(FILE.read_bytes(), type=Figures)
    _save(_loads(figures), LOADS_FILE)
    results = msgspec.json.decode(peers.FILE.read_bytes(), type=Results)
    for load, name in zip(LOADS, PEERS, strict=True):
        _save(_peers(results, load), name)


def _save(figure: Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=110, metadata={"Software": None})


def _loads(figures: Figures) -> Figure:
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    panes = figure.subplots(1, 2, sharey=True)
    names = list(GOALS)
    for number, (kind, axes) in enumerate(zip(KINDS, panes, strict=True)):
        now = [figures.added[name][kind] for name in names]
        before = [BEFORE[name][number] if name in BEFORE else 0 for name in names]
        rows = range(len(names))
        axes.barh([row - 0.2 for row in rows], before, 0.36, color=_PALE, label="before")
        bars = axes.barh([row + 0.2 for row in rows], now, 0.36, color=_OWN, label="now")
        axes.bar_label(bars, [f"{each:,}" for each in now], padding=3, color=_INK)
        for row, name in zip(rows, names, strict=True):
            goal = GOALS[name][number]
            label = "goal" if row == 0 else None
            axes.plot([goal, goal], [row - 0.42, row + 0.42], color="#c0392b", linewidth=1.6, label=label)
        axes.set_title(f"by {kind}", loc="left", color=_INK)
        axes.set_yticks(list(rows), [name.removeprefix("goal: ") for name in names])
        _style(axes)
    panes[0].invert_yaxis()
    panes[1].legend(frameon=False, loc="lower right")
    figure.suptitle("Instructions that hooks add to a call", x=0.01, ha="left", color=_INK)
    figure.supxlabel(f"guest instructions, {figures.kernel}", color=_MUTED)
    return figure


def _peers(results: Results, load: Load) -> Figure:
    rows = sorted(
        (row for row in results.rows if row.load == load and row.least is not None and row.own is not None),
        key=_total,
    )
    figure = Figure(figsize=(8.6, 0.42 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    labels = [row.peer for row in rows]
    colours = [_OWN if row.peer.startswith("pyegress") else _OTHER for row in rows]
    added = [max(1, row.least or 0) for row in rows]
    own = [row.own or 0 for row in rows]
    axes.barh(labels, added, 0.6, color=colours, label="added to the call")
    axes.barh(
        labels, own, 0.6, left=added, color=colours, alpha=0.35, label="taken by the tool's own processes"
    )
    for place, row in enumerate(rows):
        axes.annotate(
            f"{row.least:+,} and {row.own:,}" + ("" if row.seen else ", records nothing"),
            (_total(row), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
        )
    axes.set_xscale("log")
    axes.set_xlim(100, max(map(_total, rows)) * 12)
    axes.invert_yaxis()
    axes.set_title(
        f"A {LOAD_TITLES[load]}: instructions added to the call (dark), and taken by the tool's processes (pale)",
        loc="left",
        color=_INK,
        fontsize=9,
    )
    axes.set_xlabel(f"guest instructions, logarithmic; {results.kernel}", color=_MUTED)
    _style(axes)
    return figure


def _total(row: Row) -> int:
    return max(1, row.least or 0) + (row.own or 0)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_INK)
    axes.grid(axis="x", color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main()

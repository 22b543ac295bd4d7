# SPDX-License-Identifier: MIT
"""The pictures of a report. Text comes ready to be shown, and is drawn as text."""

from __future__ import annotations

import datetime
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pyegress.report.svg import COLOURS, SERIES, TEXT_PT, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PT = 760
_POINTS = 600
"""A curve has at most so many, more can't be seen."""
_DAY_NS = 86_400 * 10**9
_SHORTEST_DAYS = 60 / 86400
_LOGARITHMIC = 50
"""From this ratio on, the smaller bars could not be told apart."""
_ROW_PT = 25


class Bar(NamedTuple):
    """One of a chart."""

    label: str
    value: int
    note: str


class Node(NamedTuple):
    """An end of the graph's edges."""

    label: str
    note: str = ""
    is_rest: bool = False
    """It stands for all that aren't drawn."""


def timeline(first_ns: Sequence[int], since_ns: int, until_ns: int) -> str:
    """How many destinations were known, from when each was first seen (sorted, not empty)."""
    times = _thinned(first_ns)
    days = [since_ns / _DAY_NS, *(time / _DAY_NS for time in times), max(until_ns, times[-1]) / _DAY_NS]
    known = [0, *(bisect_right(first_ns, time) for time in times), len(first_ns)]

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        axes.fill_between(days, known, step="post", color=COLOURS["accent"], alpha=0.15, linewidth=0)
        axes.step(days, known, where="post", color=COLOURS["accent"], linewidth=1.6)
        axes.axvline(days[-2], color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 3)))
        margin = max(days[-1] - days[0], _SHORTEST_DAYS) * 0.01
        left, right = days[0] - margin, days[-1] + margin
        axes.set_xlim(left, right)
        axes.set_ylim(0, max(known[-1] * 1.12, 1))
        on_left = days[-2] > (left + right) / 2
        axes.annotate(
            "last new one",
            (days[-2], 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if on_left else 5, -4),
            textcoords="offset points",
            ha="right" if on_left else "left",
            va="top",
            color=COLOURS["muted"],
        )
        locator = AutoDateLocator(tz=datetime.timezone.utc, minticks=4, maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=datetime.timezone.utc))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.6)
        axes.spines["left"].set_visible(False)

    return svg(draw, "timeline", WIDTH_PT, 190, "Number of known destinations over time")


def bars(rows: Sequence[Bar]) -> str:
    """Bars with what they are left of them and a note behind each, the first on top."""
    values = [max(row.value, 1) for row in rows]
    logarithmic = max(values) > _LOGARITHMIC * min(values)
    # The smallest is still seen, on a scale that has no beginning.
    start = 0.5 if logarithmic else 0.0

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        places = range(len(rows))
        axes.barh(places, [value - start for value in values], 0.62, left=start, color=COLOURS["accent"])
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(start, max(values) * (max(values) / start) ** 0.55)
        else:
            axes.set_xlim(0, max(values) * 1.55)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(places, [row.label for row in rows], color=COLOURS["ink"])
        axes.xaxis.set_visible(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        for place, value, row in zip(places, values, rows, strict=True):
            axes.annotate(
                row.note,
                (value, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                color=COLOURS["muted"],
            )
        if logarithmic:
            axes.text(
                1,
                0,
                "logarithmic scale",
                transform=axes.transAxes,
                ha="right",
                va="bottom",
                color=COLOURS["muted"],
            )

    scale = ", on a logarithmic scale" if logarithmic else ""
    return svg(draw, "bars", WIDTH_PT, 22 * len(rows) + 12, f"Connections by port{scale}")


def graph(left: Sequence[Node], right: Sequence[Node], edges: Mapping[tuple[int, int], int]) -> str:
    """Who connects where: edges from nodes on the left to nodes on the right by their places, with their weights."""
    order = _untangled(len(right), edges, right)
    rows = max(len(left), len(right))
    heaviest = math.log1p(max(edges.values()))
    left_y = [_height(place, len(left), rows) for place in range(len(left))]
    right_y = [0.0] * len(right)
    for place, node in enumerate(order):
        right_y[node] = _height(place, len(right), rows)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, WIDTH_PT)
        axes.set_ylim(rows * _ROW_PT, 0)
        begin, end = WIDTH_PT * 0.34, WIDTH_PT * 0.66
        for (source, target), weight in sorted(edges.items(), key=lambda edge: -edge[1]):
            _edge(
                axes,
                (begin, left_y[source]),
                (end, right_y[target]),
                1 + 6 * math.log1p(weight) / heaviest,
                _colour(source, left[source]),
            )
        for place, node in enumerate(left):
            _node(axes, node, begin, left_y[place], -1, _colour(place, node))
        for place, node in enumerate(right):
            _node(axes, node, end, right_y[place], 1, COLOURS["muted"])

    return svg(draw, "graph", WIDTH_PT, rows * _ROW_PT, "Services and their destinations")


def _thinned(times: Sequence[int]) -> list[int]:
    """Some of them, with the first and the last, where there are more than can be seen."""
    if len(times) <= _POINTS:
        return list(times)
    step = (len(times) - 1) / (_POINTS - 1)
    return [times[round(place * step)] for place in range(_POINTS)]


def _axes(figure: Figure) -> Axes:
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.03)
    return axes


def _height(place: int, count: int, rows: int) -> float:
    """Of a node, with all of its side spread over the whole height."""
    return (place + 0.5) * rows / count * _ROW_PT


def _untangled(count: int, edges: Mapping[tuple[int, int], int], nodes: Sequence[Node]) -> list[int]:
    """Nodes of the right side by the mean place of what they are joined to; the rest comes last."""
    weights, sums = [0.0] * count, [0.0] * count
    for (source, target), weight in edges.items():
        share = math.log1p(weight)
        weights[target] += share
        sums[target] += share * source
    return sorted(range(count), key=lambda node: (nodes[node].is_rest, sums[node] / (weights[node] or 1)))


def _colour(place: int, node: Node) -> str:
    return COLOURS["muted"] if node.is_rest else COLOURS[f"series-{place % SERIES}"]


def _edge(
    axes: Axes, begin: tuple[float, float], end: tuple[float, float], width: float, colour: str
) -> None:
    middle = (begin[0] + end[0]) / 2
    curve = Path(
        [begin, (middle, begin[1]), (middle, end[1]), end],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    axes.add_patch(
        PathPatch(curve, fill=False, edgecolor=colour, alpha=0.45, linewidth=width, capstyle="butt")
    )


def _node(axes: Axes, node: Node, x: float, y: float, side: int, colour: str) -> None:
    """A bar at the end of its edges and the text outside of it; `side` -1: left."""
    axes.plot([x, x], [y - 6, y + 6], color=colour, linewidth=4, solid_capstyle="butt")
    align = "right" if side < 0 else "left"
    text_x = x + side * 8
    style = "muted" if node.is_rest else "ink"
    axes.text(text_x, y - (4 if node.note else 0), node.label, ha=align, va="center", color=COLOURS[style])
    if node.note:
        axes.text(
            text_x, y + 6, node.note, ha=align, va="center", color=COLOURS["muted"], fontsize=TEXT_PT - 1.5
        )

# SPDX-License-Identifier: MIT
"""A matplotlib figure as SVG that stands in a page of ours: only what draws, in the colours of its style sheet.

The page's policy lets no style attribute act, so colours are presentation attributes, which may name variables.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SERIES = 8
"""So many colours tell services apart; then they begin anew."""
COLOURS = {
    "ink": "#101112",
    "muted": "#606162",
    "grid": "#d0d1d2",
    "accent": "#1f5fbf",
    **{f"series-{number}": f"#a0{number:02x}b0" for number in range(SERIES)},
}
"""Variables of the style sheet, and the colours that stand for them while matplotlib draws."""
TEXT_PT = 8.5

_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_ELEMENTS = frozenset(("svg", "g", "path", "text", "defs", "clipPath", "rect"))
_ATTRIBUTES = frozenset(("viewBox", "d", "x", "y", "width", "height", "transform", "clip-path"))
_STYLE = frozenset(
    (
        *("fill", "fill-opacity", "opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-linecap"),
        *("stroke-linejoin", "stroke-dasharray", "font-size", "font-weight", "text-anchor"),
    )
)
_FONT_SIZE = re.compile(r"(?<![\w.])[0-9.]+px")
"""In the shorthand `font`, which is no presentation attribute."""


def svg(draw: Callable[[Figure], None], name: str, width_pt: float, height_pt: float, title: str) -> str:
    """What `draw` puts into a figure; `name` tells its parts from those of other figures, `title` is read aloud."""
    ours: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        # What a process is called may look like mathematics.
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "font.size": TEXT_PT,
        "text.color": COLOURS["ink"],
        "axes.edgecolor": COLOURS["grid"],
        "xtick.labelcolor": COLOURS["muted"],
        "ytick.labelcolor": COLOURS["muted"],
        "xtick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }
    written = io.StringIO()
    # A matplotlibrc has no say; the fonts that measure the text need not have every character of it.
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ours)
        figure = Figure(figsize=(width_pt / 72, height_pt / 72))
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = _cleaned(ElementTree.fromstring(written.getvalue()))
    del root.attrib["width"], root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _cleaned(element: ElementTree.Element) -> ElementTree.Element:
    """It and what is in it, as far as it draws, without namespaces: HTML knows what is SVG."""
    made = ElementTree.Element(_local(element))
    made.text = element.text if made.tag == "text" else None
    for key, value in element.items():
        if key in _ATTRIBUTES or (key == "id" and made.tag == "clipPath"):
            made.set(key, " ".join(value.split()))
        elif key == "style":
            made.attrib.update(_presentation(value))
    for child in element:
        if _local(child) in _ELEMENTS:
            cleaned = _cleaned(child)
            if cleaned.tag != "g" or len(cleaned):
                made.append(cleaned)
    return made


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _presentation(style: str) -> dict[str, str]:
    found = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (size := _FONT_SIZE.search(value)):
            found["font-size"] = size[0]
        elif name in _STYLE:
            found[name] = _VARIABLES.get(value, value)
    return found

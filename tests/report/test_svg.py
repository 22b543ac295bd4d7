# SPDX-License-Identifier: MIT
"""What stands in the page is a drawing: elements that draw, colours of the page, text as it is."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from pyegress.report.svg import COLOURS, svg

TEXTS = ["$\\alpha$", "<script>x</script>", "a & b", "日本 שלום", "$", "\\u202e", "'\"><b>"]


def writing(text: str) -> Callable[[Figure], None]:
    """Draws a text, and something that is clipped."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=COLOURS["accent"])
        axes.text(0.5, 0.5, text, color=COLOURS["series-3"])

    return draw


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_text(text: str) -> None:
    """No mathematics, no markup, and no warning of characters that a font lacks."""
    with warnings.catch_warnings(record=True) as said:
        made = ElementTree.fromstring(svg(writing(text), "a", 200, 100, text))
    assert text in [element.text for element in made.iter("text")]
    assert made.get("aria-label") == text
    assert not said


def test_only_what_draws() -> None:
    """No style that a page's policy would refuse, no metadata, no size of its own."""
    made = ElementTree.fromstring(svg(writing("x"), "a", 200, 100, "title"))
    assert {element.tag for element in made.iter()} <= {
        *("svg", "g", "path", "text", "defs", "clipPath", "rect")
    }
    attributes = {name for element in made.iter() for name in element.attrib}
    assert not attributes & {"style", "class", "width", "height", "href"} - {"width", "height"}
    assert made.get("width") is None
    assert made.get("viewBox") == "0 0 200 100"


def test_colours_are_the_style_sheets() -> None:
    """Each is a variable, which dark mode and paper change; the style sheet has all of them, three times."""
    made = svg(writing("x"), "a", 200, 100, "title")
    assert {"var(--accent)", "var(--series-3)"} <= set(re.findall(r'"(var[^"]*)"', made))
    assert not [colour for colour in COLOURS.values() if colour in made]
    style = (Path(__file__).parents[2] / "pyegress/report/page.css").read_text()
    for name in COLOURS:
        assert len(re.findall(rf"--{name}:", style)) == 3


def test_parts_of_two_figures_have_names_of_their_own() -> None:
    """They stand in one page."""
    first, second = (
        {
            element.get("id")
            for element in ElementTree.fromstring(svg(writing("x"), name, 200, 100, "t")).iter()
        }
        for name in ("a", "b")
    )
    assert first & second == {None}
    assert len(first) == 2


def test_a_users_matplotlibrc_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user likes in plots may be anything, TeX too."""
    import matplotlib

    before = svg(writing("x"), "a", 200, 100, "t")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    assert svg(writing("x"), "a", 200, 100, "t") == before
    assert matplotlib.rcParams["axes.facecolor"] == "red"

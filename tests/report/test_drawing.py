# SPDX-License-Identifier: MIT
"""Pictures say what they are given, however much or little that is."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pyegress.report.drawing import Bar, Node, bars, graph, timeline
from tests.report.records import HOUR, NOW

LAST_NS = (1 << 63) - 1


def texts(made: str) -> list[str]:
    """All that can be read in it."""
    return [element.text or "" for element in ElementTree.fromstring(made).iter("text")]


def test_timeline() -> None:
    """It grows to the number of destinations, and days can be read."""
    made = timeline([NOW + at * 24 * HOUR for at in range(60)], NOW, NOW + 90 * 24 * HOUR)
    assert "last new one" in texts(made)
    assert "Oct" in texts(made)
    assert "60" in texts(made)


@pytest.mark.parametrize(
    ("first", "until"),
    [([NOW], NOW), ([1], 1), ([1, LAST_NS], LAST_NS), ([LAST_NS], LAST_NS), ([NOW] * 9, NOW)],
)
def test_timeline_of_odd_times(first: list[int], until: int) -> None:
    """One moment, or a clock that was wrong, is no reason to fail."""
    assert "last new one" in texts(timeline(first, first[0], until))


def test_timeline_is_bounded() -> None:
    """However many destinations there are."""
    made = timeline([NOW + at * 10**9 for at in range(200_000)], NOW, NOW + HOUR * 100)
    assert "200,000" in texts(made)
    assert len(made) < 100_000


def test_bars() -> None:
    """Labels and notes stand beside the bars, of which a longer one is more."""
    made = bars([Bar("443 https", 400, "400 of it"), Bar("$80$", 100, "100"), Bar("0", 0, "none")])
    assert {"443 https", "$80$", "400 of it", "100", "none"} <= set(texts(made))
    assert "logarithmic scale" in texts(made)
    assert "logarithmic scale" not in bars([Bar("a", 3, ""), Bar("b", 2, "")])


def test_graph() -> None:
    """Each node can be read, each edge is drawn, and nodes are sorted so that edges cross less."""
    left = [Node("nginx.service"), Node("curl", "bob"), Node("3 more services", is_rest=True)]
    right = [
        Node("[2001:db8::1]:443/tcp"),
        Node("192.0.2.1:53/udp", "dns.example"),
        Node("more", is_rest=True),
    ]
    made = graph(left, right, {(0, 1): 1000, (1, 0): 1, (2, 2): 5})
    labels = {node.label for node in left + right}
    assert labels | {"bob", "dns.example"} <= set(texts(made))
    assert len(re.findall(r'd="[^"]* C ', made)) == 3
    heights = {
        element.text: float(re.findall(r"[\d.]+", element.get("y") or element.get("transform") or "")[-1])
        for element in ElementTree.fromstring(made).iter("text")
    }
    assert heights["192.0.2.1:53/udp"] < heights["[2001:db8::1]:443/tcp"] < heights["more"]

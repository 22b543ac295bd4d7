# SPDX-License-Identifier: MIT
"""Whatever lies at the borders of pages and spans, each entry comes once, or it is said that some do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.errors import InputError
from pyegress.loki import pages as module
from pyegress.loki.pages import SPAN_NS, Pages
from pyegress.loki.query import Entry, TooMuch
from pyegress.losses import Losses


class Stored:
    """What Loki would answer of these entries, at most `most` at once and for at most `longest_ns`."""

    name = "Loki"

    def __init__(
        self, entries: list[Entry], most: int = 5000, longest_ns: int = SPAN_NS, end_counts: bool = False
    ) -> None:
        self.kept = sorted(entries, key=lambda entry: entry.ts)
        self.most, self.longest_ns, self.end_counts = most, longest_ns, end_counts
        self.asked = 0

    def entries(self, query: str, start_ns: int, end_ns: int, limit: int) -> list[Entry]:
        self.asked += 1
        if limit > self.most or end_ns - start_ns > self.longest_ns:
            raise TooMuch("too much")
        last = end_ns + self.end_counts
        return [entry for entry in self.kept if start_ns <= entry.ts < last][:limit]

    def series(self, selector: str, start_ns: int, end_ns: int) -> list[dict[str, str]]:
        if end_ns - start_ns > self.longest_ns:
            raise TooMuch("too much")
        found = {entry.labels for entry in self.kept if start_ns <= entry.ts < end_ns}
        return [dict(labels) for labels in sorted(found)]


def entry(ts: int, number: int, host: str = "a") -> Entry:
    """One that is told apart by its line."""
    return Entry(ts, (("host", host),), f"line {number}")


def read(stored: Stored, since: int, until: int) -> tuple[list[Entry], int]:
    """All that is given, and how many times were lost of."""
    losses = Losses()
    found = [each for page in Pages(stored, since, until).entries("{}", losses) for each in page]
    return found, losses.total("lost")


@given(
    st.lists(st.integers(0, 12), max_size=30),
    st.integers(1, 9),
    st.integers(1, 20),
    st.booleans(),
)
def test_each_once(times: list[int], limit: int, span: int, end_counts: bool) -> None:
    """Many share a time, pages end within it, and spans anywhere: all of a time that fits a page comes once."""
    stored = [entry(ts, number) for number, ts in enumerate(times)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE", limit)
        patch.setattr(module, "SPAN_NS", span)
        found, lost = read(Stored(stored, end_counts=end_counts), 0, 12)
    assert len(found) == len(set(found))
    assert [each.ts for each in found] == sorted(each.ts for each in found)
    crowded = {ts for ts in times if times.count(ts) >= limit}
    last = 13 if end_counts else 12
    for each in stored:
        assert each in found or each.ts in crowded or each.ts >= 12
    over = {ts for ts in times if times.count(ts) > limit and ts < last}
    assert lost >= len(over - {12})
    assert lost == 0 or crowded


def test_more_of_one_time_than_a_page() -> None:
    """A page of them comes, the loss is said, and what is later comes too."""
    stored = [entry(100, number) for number in range(5001)] + [entry(101, 9999)]
    found, lost = read(Stored(stored), 0, 200)
    assert (len(found), lost, found[-1].ts) == (5001, 1, 101)


def test_equal_lines() -> None:
    """Of one stream and time they are one; of two hosts or times they are two."""
    found, _ = read(Stored([entry(1, 1), entry(1, 1), entry(1, 1, "b"), entry(2, 1)]), 0, 9)
    assert found == [entry(1, 1), entry(1, 1, "b"), entry(2, 1)]


def test_less_at_a_time() -> None:
    """A Loki with smaller limits is asked for as much as it gives."""
    stored = [entry(number * 10**12, number) for number in range(500)]
    found, lost = read(Stored(stored, most=100, longest_ns=SPAN_NS // 10), 0, 600 * 10**12)
    assert (found, lost) == (stored, 0)


def test_nothing_is_little_enough() -> None:
    """An error that says so, after a bounded number of questions."""
    stored = Stored([], most=0)
    with pytest.raises(InputError, match="Loki: too much; give a narrower --query"):
        read(stored, 0, SPAN_NS)
    assert stored.asked < 30


def test_month_in_days() -> None:
    """No question is longer than a day, and none is asked twice."""
    stored = Stored([])
    read(stored, 0, 30 * SPAN_NS)
    assert stored.asked == 30


def test_a_server_that_does_not_listen() -> None:
    """Older entries than asked for are no answer, and no endless loop."""

    class Deaf(Stored):
        def entries(self, query: str, start_ns: int, end_ns: int, limit: int) -> list[Entry]:
            return self.kept

    with pytest.raises(InputError, match="older than it was asked for"):
        read(Deaf([entry(1, 1)]), 0, 3 * SPAN_NS)


def test_streams() -> None:
    """Of all spans, also where they must be shorter."""
    stored = Stored([entry(1, 1), entry(SPAN_NS + 1, 1, "b")], longest_ns=SPAN_NS // 3)
    found = [labels["host"] for some in Pages(stored, 0, 2 * SPAN_NS).series("{}") for labels in some]
    assert found == ["a", "b"]

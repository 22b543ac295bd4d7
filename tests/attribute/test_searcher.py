# SPDX-License-Identifier: MIT
"""The searcher: quick answers at once, slow ones later and many by one search, none ever left out."""

from __future__ import annotations

import select
from collections.abc import Sequence
from threading import Event
from typing import Any

import pytest

from pyegress.attribute.lookup import Answer, Found, Query, Unknown
from pyegress.attribute.searcher import Searcher
from pyegress.record import Process

PATIENCE = 30
QUICK, SLOW = Found(Process(pid=1)), Found(Process(pid=2))


def query(port: int) -> Query:
    """A query that is told from others by its port."""
    return Query(4, 6, bytes(16), bytes(16), port, 443)


class FakeLookup:
    """Finds port 1 at once; `search` waits for `gate`, and fails if told to."""

    def __init__(self) -> None:
        self.gate = Event()
        self.searching = Event()
        self.searched: list[list[int | None]] = []
        self.error: Exception | None = None

    def close(self) -> None:
        """Nothing to let go."""

    def find(self, asked: Query) -> Answer | None:
        """Quick for port 1 alone."""
        return QUICK if asked.sport == 1 else None

    def search(self, asked: Sequence[Query]) -> list[Answer]:
        """One answer each."""
        self.searching.set()
        assert self.gate.wait(PATIENCE)
        self.searched.append([one.sport for one in asked])
        if self.error:
            raise self.error
        return [SLOW for _ in asked]


@pytest.fixture
def lookup() -> FakeLookup:
    """A look-up with its gate closed."""
    return FakeLookup()


def searcher(lookup: Any, failures: list[Exception] | None = None, **settings: Any) -> Searcher[str]:
    """A searcher whose tokens are texts."""
    return Searcher(lookup, (failures if failures is not None else []).append, **settings)


def all_answers(chosen: Searcher[str]) -> dict[str, Answer]:
    """Wait for every answer that is due."""
    found: dict[str, Answer] = {}
    while chosen.unanswered:
        assert select.select([chosen], [], [], PATIENCE)[0]
        found.update(chosen.answers())
    return found


def test_quick_answer_waits_for_no_search(lookup: FakeLookup) -> None:
    """While the thread is busy others are answered at once."""
    chosen = searcher(lookup)
    assert chosen.ask("slow", query(2)) is None
    assert lookup.searching.wait(PATIENCE)
    assert chosen.ask("quick", query(1)) is QUICK
    assert chosen.answers() == []
    lookup.gate.set()
    assert all_answers(chosen) == {"slow": SLOW}
    chosen.close()


def test_one_search_answers_all_that_came_meanwhile(lookup: FakeLookup) -> None:
    """What is asked during a search is the next one, together."""
    chosen = searcher(lookup)
    chosen.ask("a", query(2))
    assert lookup.searching.wait(PATIENCE)
    for name, port in (("b", 3), ("c", 4), ("d", 5)):
        chosen.ask(name, query(port))
    lookup.gate.set()
    assert all_answers(chosen).keys() == {"a", "b", "c", "d"}
    assert lookup.searched == [[2], [3, 4, 5]]
    chosen.close()


def test_a_search_that_fails_answers_all_the_same(lookup: FakeLookup) -> None:
    """The error is told once; each query is unknown, and the next search works."""
    failures: list[Exception] = []
    chosen = searcher(lookup, failures)
    lookup.gate.set()
    lookup.error = OSError("no /proc")
    chosen.ask("a", query(2))
    assert all_answers(chosen) == {"a": Unknown("the look-up failed", None, None)}
    assert failures == [lookup.error]
    lookup.error = None
    chosen.ask("b", query(3))
    assert all_answers(chosen) == {"b": SLOW}
    chosen.close()


def test_too_many_are_answered_as_unknown(lookup: FakeLookup) -> None:
    """The queue is bounded; what does not fit has its answer at once."""
    chosen = searcher(lookup, waiting=2)
    assert [chosen.ask(name, query(2)) for name in "ab"] == [None, None]
    assert chosen.ask("c", query(3)) == Unknown("too many look-ups at a time", None, None)
    lookup.gate.set()
    assert all_answers(chosen).keys() == {"a", "b"}
    assert chosen.ask("d", query(4)) is None
    all_answers(chosen)
    chosen.close()


def test_close_may_come_twice(lookup: FakeLookup) -> None:
    """And ends the thread."""
    chosen = searcher(lookup)
    chosen.close()
    chosen.close()

# SPDX-License-Identifier: MIT
"""A long time in Loki, read page by page: no entry twice, and none left out unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pyegress.errors import InputError
from pyegress.loki.query import Entry, TooMuch
from pyegress.losses import Losses

PAGE = 5000
"""Loki's default max_entries_limit_per_query."""
SPAN_NS = 86_400_000_000_000
"""Of a question: a day. Loki refuses more than its max_query_length, 30d1h by default."""
_LEAST_SPAN_NS = 1_000_000_000


class Asked(Protocol):
    """What can be asked for entries and streams."""

    @property
    def name(self) -> str:
        """How messages call it."""

    def entries(self, query: str, start_ns: int, end_ns: int, limit: int) -> list[Entry]:
        """The first ones, by time, before `end_ns`; raises TooMuch."""

    def series(self, selector: str, start_ns: int, end_ns: int) -> list[dict[str, str]]:
        """The labels of streams; raises TooMuch."""


class Pages:
    """Asks for as much at a time as Loki gives; less from the first time on that it finds it too much."""

    def __init__(self, asked: Asked, since_ns: int, until_ns: int) -> None:
        """From `since_ns` on and before `until_ns`."""
        self._asked = asked
        self._since_ns, self._until_ns = since_ns, until_ns
        self._limit = PAGE
        self._span_ns = SPAN_NS

    def entries(self, query: str, losses: Losses) -> Iterator[list[Entry]]:
        """All by time, a page at a time. Of equal lines of one stream and time one is given, as Loki keeps one.

        Where more of one time than a page holds can't be reached, `losses` says so. Raises InputError.
        """
        at = self._since_ns
        # What was given of the time of the last entry: a page ends within it, and the next one begins with it again.
        given_ns, given = -1, set[Entry]()
        while at < self._until_ns:
            end = min(at + self._span_ns, self._until_ns)
            try:
                page = self._asked.entries(query, at, end, self._limit)
            except TooMuch as why:
                self._ask_less(why)
                continue
            if page and page[0].ts < at:
                raise InputError(f"{self._asked.name}: it answers with what is older than it was asked for")
            fresh = []
            for entry in page:
                if entry.ts != given_ns:
                    given_ns, given = entry.ts, set()
                if entry not in given:
                    given.add(entry)
                    fresh.append(entry)
            if fresh:
                yield fresh
            if len(page) < self._limit:
                at = end
            elif page[-1].ts > at:
                at = page[-1].ts
            else:
                losses.add("lost", "loki: times with more records than a page holds")
                at += 1

    def series(self, selector: str) -> Iterator[list[dict[str, str]]]:
        """The labels of all streams; a stream comes again for each span. Raises InputError."""
        at = self._since_ns
        while at < self._until_ns:
            end = min(at + self._span_ns, self._until_ns)
            try:
                yield self._asked.series(selector, at, end)
            except TooMuch as why:
                self._ask_less(why)
            else:
                at = end

    def _ask_less(self, why: TooMuch) -> None:
        if self._limit == 1 and self._span_ns == _LEAST_SPAN_NS:
            raise InputError(f"{self._asked.name}: {why}; give a narrower --query")
        self._limit = max(self._limit // 2, 1)
        self._span_ns = max(self._span_ns // 2, _LEAST_SPAN_NS)

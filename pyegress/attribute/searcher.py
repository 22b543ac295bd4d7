# SPDX-License-Identifier: MIT
"""Look-ups that don't hold each other up: quick ones at once, the others in a thread that serves many by one search."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

from pyegress.attribute.lookup import Answer, Lookup, Query, Unknown

WAITING = 8192
T = TypeVar("T")


class Searcher(Generic[T]):
    """`ask` and `answers` are for one thread; `fileno` is readable while answers wait.

    `failed` is told of an error inside the search, whose queries are answered as unknown.
    """

    def __init__(self, lookup: Lookup, failed: Callable[[Exception], None], waiting: int = WAITING) -> None:
        self._lookup = lookup
        self._failed = failed
        self._limit = waiting
        self._changes = Condition()
        self._asked: list[tuple[T, Query]] = []
        self._answered: list[tuple[T, Answer]] = []
        self._unanswered = 0
        self._closed = False
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = Thread(target=self._work, name="process search", daemon=True)

    def fileno(self) -> int:
        """A descriptor to poll for reading."""
        return self._ready

    @property
    def unanswered(self) -> int:
        """How many answers are still to come from `answers`."""
        return self._unanswered

    def ask(self, token: T, query: Query) -> Answer | None:
        """The answer, or None where it comes from `answers` with the token."""
        found = self._lookup.find(query)
        if found is not None:
            return found
        if self._unanswered >= self._limit:
            return Unknown("too many look-ups at a time", query.uid)
        self._unanswered += 1
        if self._thread.ident is None:
            self._thread.start()  # only now: with the rights that are left then
        with self._changes:
            self._asked.append((token, query))
            self._changes.notify()
        return None

    def answers(self) -> list[tuple[T, Answer]]:
        """What was found since."""
        try:
            os.eventfd_read(self._ready)
        except BlockingIOError:
            return []
        with self._changes:
            answered, self._answered = self._answered, []
        self._unanswered -= len(answered)
        return answered

    def close(self) -> None:
        """End the thread after the search that it is at; may be called twice."""
        with self._changes:
            if self._closed:
                return
            self._closed = True
            self._changes.notify()
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._ready)
        self._lookup.close()

    def _work(self) -> None:
        while True:
            with self._changes:
                while not (self._asked or self._closed):
                    self._changes.wait()
                if self._closed:
                    return
                asked, self._asked = self._asked, []
            queries = [query for _, query in asked]
            found: list[Answer]
            try:
                found = list(self._lookup.search(queries))
            except Exception as error:
                self._failed(error)
                found = [Unknown("the look-up failed", query.uid) for query in queries]
            with self._changes:
                self._answered += [(token, answer) for (token, _), answer in zip(asked, found, strict=True)]
            os.eventfd_write(self._ready, 1)

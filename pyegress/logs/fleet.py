# SPDX-License-Identifier: MIT
"""Connections of many hosts, back from Loki."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pyegress.errors import InputError, UsageError, nearest
from pyegress.escape import display
from pyegress.logs.jsonl import Decoder
from pyegress.logs.logfmt import LogfmtReader
from pyegress.logs.repeats import Repeating
from pyegress.loki.options import QueryOptions
from pyegress.loki.pages import Pages
from pyegress.loki.query import Query
from pyegress.loki.selector import parts
from pyegress.losses import Losses
from pyegress.record import Connection, Repeats

MOST_VALUES = 10_000
"""Of a label that is to part records: each is a query of its own."""


class Fleet:
    """What a query finds; for one thread.

    A line is the whole record, be it of the loki output or, shipped by something else, of logfmt or json: the metadata
    beside it says nothing more, and is cut where it is long.
    """

    def __init__(self, options: QueryOptions, notice: Callable[[str], None]) -> None:
        """OutputError where a password is missing, or a file can't be used; nothing is asked yet."""
        now = time.time_ns()
        since, until = options.since.ns(now), options.until.ns(now)
        if since >= until:
            raise UsageError("--since: must be before --until")
        self._query = Query(options, notice)
        self._pages = Pages(self._query, since, until)
        self._asked = parts(options.query)

    @property
    def whole(self) -> Streams:
        """All of it."""
        return Streams(self._query.name, self._pages, f"{self._asked.selector}{self._asked.rest}")

    def by(self, label: str) -> tuple[list[tuple[str, Streams]], int]:
        """The records by the values of a stream label, and how many streams haven't got it. Raises InputError."""
        values: set[str] = set()
        labels: set[str] = set()
        without: set[tuple[tuple[str, str], ...]] = set()
        for some in self._pages.series(self._asked.selector):
            for stream in some:
                labels |= stream.keys()
                if label in stream:
                    values.add(stream[label])
                elif len(without) < MOST_VALUES:
                    without.add(tuple(sorted(stream.items())))
            if len(values) > MOST_VALUES:
                raise InputError(
                    f"--by {display(label)}: more than {MOST_VALUES} values; take a label that has few"
                )
        if without and not values:
            known = nearest(label, sorted(map(display, labels)))
            raise InputError(
                f"--by {display(label)}: no stream of {self._query.name} has that label; {known}"
            )
        return [(value, self._of(label, value)) for value in sorted(values)], len(without)

    def close(self) -> None:
        """Let go of the connection."""
        self._query.close()

    def _of(self, label: str, value: str) -> Streams:
        name = f"{display(label)}={display(value)} in {self._query.name}"
        return Streams(name, self._pages, self._asked.where(label, value))


class Streams(NamedTuple):
    """A part of a fleet's records, or all."""

    name: str
    """How messages call it."""
    pages: Pages
    query: str

    @property
    def keeps_losses(self) -> bool:
        """What the audits lost is not in Loki."""
        return False

    def connections(self, losses: Losses) -> Iterator[Sequence[Connection]]:
        """By time, a page at a time; what is no record is counted as a loss. Raises InputError."""
        logfmt, json = LogfmtReader(), Decoder()
        for lines in self._lines(losses):
            found, damaged = [], 0
            for line in lines:
                form = json if line.startswith(b"{") else logfmt
                try:
                    found.append(form.connection(line))
                except ValueError:
                    damaged += 1
            self._lost(losses, damaged)
            if found:
                yield found

    def repeats(self, losses: Losses) -> Iterator[Sequence[Repeats]]:
        """The same with what repeats as one, in a fraction of the time; not in the order of time."""
        logfmt, json = Repeating(LogfmtReader()), Repeating(Decoder())
        for lines in self._lines(losses):
            self._lost(losses, logfmt.add(line for line in lines if not line.startswith(b"{")))
            self._lost(losses, json.add(line for line in lines if line.startswith(b"{")))
            for gathered in logfmt, json:
                if gathered.is_full:
                    yield from gathered.take()
        yield from logfmt.take()
        yield from json.take()

    def _lines(self, losses: Losses) -> Iterator[list[bytes]]:
        for entries in self.pages.entries(self.query, losses):
            yield [entry.line.encode(errors="replace") for entry in entries]

    def _lost(self, losses: Losses, lines: int) -> None:
        losses.add("unreadable", f"{self.name}: lines that are no record of pyegress", lines)

# SPDX-License-Identifier: MIT
"""Connections as they are made, counted in a table on the terminal."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pyegress import plugin
from pyegress.errors import OutputError, UsageError
from pyegress.escape import display
from pyegress.options import DurationNs
from pyegress.plugin import Batch, Context
from pyegress.watch.screen import Screen
from pyegress.watch.tally import Tally
from pyegress.watch.terminal import Terminal

_SECOND = 1_000_000_000
_HOUR = 3600 * _SECOND


class TableOptions(plugin.Options, frozen=True, kw_only=True):
    """Options of the table output."""

    by: Annotated[
        Literal["process", "destination", "both"],
        Meta(description="a row is a process, a destination or both; what that leaves open is of the newest"),
    ] = "both"
    sort: Annotated[
        Literal["rate", "count", "new", "name"],
        Meta(description="first come: most lately, most in all, first seen last, or names in order"),
    ] = "rate"
    new: Annotated[DurationNs, Meta(description="how long after its first connection a row is marked +")] = (
        60 * _SECOND
    )
    rows: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="rows in memory; for one more that is let go which was not seen for longest",
        ),
    ] = 2000
    interval: Annotated[DurationNs, Meta(ge=_SECOND // 10, le=_HOUR, description="how often it is drawn")] = (
        _SECOND
    )


class Table(plugin.Output):
    """Counts in the pipeline's thread; the Screen draws in another."""

    name: ClassVar[str] = "table"
    summary: ClassVar[str] = "a live table of processes and destinations on the terminal; `pyegress top`"
    Options: ClassVar[type[plugin.Options]] = TableOptions
    draws: ClassVar[bool] = True

    def __init__(self, options: TableOptions) -> None:
        self._options = options
        self._tally = Tally(options.by, options.rows, time.monotonic_ns())
        self._screen: Screen | None = None
        self._context: Context | None = None

    def open(self, context: Context) -> None:
        """Raises UsageError where nothing can be drawn."""
        if not Terminal.is_there():
            raise UsageError("table: standard output is no terminal to draw on; use -o text or -o logfmt")
        options = self._options
        screen = Screen(
            self._tally,
            context,
            by=options.by,
            sort=options.sort,
            new_ns=options.new,
            interval_ns=options.interval,
        )
        self._context, self._screen = context, screen
        context.occupy(screen)  # first, so that no message comes in between
        screen.start()

    def write(self, batch: Batch) -> None:
        self._tally.add(batch, time.monotonic_ns())

    def close(self) -> None:
        context, self._context = self._context, None
        if context is None or self._screen is None:
            return
        context.occupy(None)
        error = self._screen.error
        if isinstance(error, OSError):
            raise OutputError(f"table: the terminal has gone: {display(error.strerror or str(error))}")
        if error is not None:
            raise error

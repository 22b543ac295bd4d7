# SPDX-License-Identifier: MIT
"""A store for audits that run for weeks: connections folded in memory, and every few seconds into a database."""

from __future__ import annotations

import time
from threading import Event, Lock, Thread
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.errors import OutputError
from pyegress.logs.fold import Fold, Folded
from pyegress.logs.storewriter import StoreFailed, StoreWriter
from pyegress.options import DurationNs
from pyegress.plugin import Batch, Context
from pyegress.redact import RedactOptions

_SECOND = 1_000_000_000
_HOUR = 3600 * _SECOND
_FULL = 20_000
"""So many rows are written before their time, ..."""
MOST_WAITING = 100_000
"""... and so many wait where they can't be; what would be one more row is lost then."""
_RETRY_S = 0.5


class SqliteOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of the sqlite output."""

    file: Annotated[str, Meta(min_length=1, description="database to make or add to (0640)")]
    flush: Annotated[
        DurationNs,
        Meta(ge=_SECOND // 10, le=_HOUR, description="how often it is written: a kill costs at most so much"),
    ] = 5 * _SECOND
    keep: Annotated[
        DurationNs, Meta(description="drop what was not seen for so long, such as 90d; 0: never")
    ] = 0
    rows: Annotated[
        int, Meta(ge=1, description="so many different connections at most; more are counted as lost")
    ] = 1_000_000

    def __post_init__(self) -> None:
        if self.file == "-":
            raise ValueError("file:-: a database can't be written to standard output; name a file")


class Sqlite(plugin.Output):
    """Takes connections in the pipeline's thread; another one writes them, also while nothing happens."""

    name: ClassVar[str] = "sqlite"
    summary: ClassVar[str] = "a database of who connected where, how often, and when first and last"
    Options: ClassVar[type[plugin.Options]] = SqliteOptions

    def __init__(self, options: SqliteOptions) -> None:
        self._options = options
        self._context: Context | None = None
        self._fold = Fold(options.redact, MOST_WAITING)
        self._folding = Lock()
        """Held for what is in memory; never while the disk is waited for."""
        self._store = StoreWriter(options.file, options.rows)
        self._taken: list[Folded] = []
        """Out of the fold and not yet written; as it is left by what failed."""
        self._storing = Lock()
        """Held for these two, and taken first."""
        self._closing = Event()
        self._thread = Thread(target=self._write_in_time, name="sqlite store", daemon=True)
        self._trouble = ""
        """What was said of a failure that lasts."""
        self._error: OutputError | None = None
        self._retire_due_ns = 0

    def open(self, context: Context) -> None:
        self._store.open()
        try:
            self._retire(context)
        except BaseException:
            self._store.close()
            raise
        self._context = context
        self._thread.start()

    def write(self, batch: Batch) -> None:
        context = self._context
        if context is None:
            raise OutputError("sqlite: not open")
        if self._error is not None:
            raise self._error
        if context.waits:
            self._await_room(context)
        with self._folding:
            without_room = self._fold.add(batch)
        self._lose(context, "the database can't be written and memory is full", without_room)
        if len(self._fold) >= _FULL and not self._trouble:
            self._try_to_put(context)

    def reopen(self) -> None:
        """Where the file was moved, start a new one in its place."""
        with self._storing:
            if self._context is not None and not self._store.is_in_place():
                self._put(self._context)
                self._store.leave()
                self._store.open()

    def close(self) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        self._closing.set()
        self._thread.join()
        try:
            self._put(context, ended=True)
        except OutputError:
            records = self._fold.records + sum(row.records for row in self._taken)
            self._lose(context, "the database could not be written at exit", records)
            raise
        finally:
            self._store.close()

    def _await_room(self, context: Context) -> None:
        """Where nothing may be lost for want of memory: until the database can be written."""
        while len(self._fold) >= _FULL and self._trouble:
            self._try_to_put(context)
            if self._error is not None:
                raise self._error
            if len(self._fold) >= _FULL:
                time.sleep(_RETRY_S)

    def _write_in_time(self) -> None:
        while not self._closing.wait(self._options.flush / _SECOND):
            context = self._context
            if context is None or self._error is not None:
                return
            self._try_to_put(context)

    def _try_to_put(self, context: Context) -> None:
        """Write what is folded; what can't be written now is kept and tried again, and that is said once."""
        with self._storing:
            try:
                self._put(context)
                self._retire(context)
                trouble = "" if self._store.is_in_place() else self._store.moved
            except StoreFailed as failed:
                trouble = f"{failed}; it is tried again"
            except OutputError as error:
                # For the pipeline's thread, which is told at its next batch.
                self._error, trouble = error, str(error)
            if trouble and trouble != self._trouble:
                context.notice(f"sqlite: {trouble}")
            elif self._trouble and not trouble:
                context.notice("sqlite: the database is written again")
            self._trouble = trouble

    def _put(self, context: Context, ended: bool = False) -> None:
        if self._taken:
            self._put_taken(context)
        with self._folding:
            self._taken = self._fold.take()
        if self._taken or ended:
            self._put_taken(context, ended)

    def _put_taken(self, context: Context, ended: bool = False) -> None:
        without_room = self._store.put(self._taken, context.losses.snapshot(), ended)
        self._taken = []
        if without_room:
            self._lose(context, "more different connections than -O sqlite:rows", without_room)
            # There may be no next time, and readers are to know it too.
            self._store.put([], context.losses.snapshot(), ended)

    def _retire(self, context: Context) -> None:
        now = time.time_ns()
        if self._options.keep and now >= self._retire_due_ns:
            self._retire_due_ns = now + min(self._options.keep, _HOUR)
            gone = self._store.retire(now - self._options.keep)
            context.losses.add("skipped", "sqlite: rows dropped by age (-O sqlite:keep)", gone)

    def _lose(self, context: Context, why: str, records: int) -> None:
        context.losses.add("lost", f"output sqlite: {why}", records)

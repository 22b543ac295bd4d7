# SPDX-License-Identifier: MIT
"""Folded connections into a store: one writer at a time, all or nothing, nothing torn by a kill or a power cut."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pyegress import __version__
from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.logs.fold import Folded
from pyegress.logs.schema import APPLICATION, BESIDE, CONNECTION, MAGIC, PROCESS, VERSION, digest, prepare
from pyegress.record import Process

R = TypeVar("R")

_CACHED = 8192
_PASSING = (
    *("database or disk is full", "disk I/O error", "database is locked", "database table is locked"),
    *("unable to open database", "attempt to write a readonly database", "out of memory"),
)
"""How SQLite words what may be over when it is tried again: Python 3.10 doesn't tell its codes."""

_INSERT_PROCESS = (
    f"INSERT INTO process (key, parent, {', '.join(column.name for column in PROCESS)})"
    f" VALUES (?, ?{', ?' * len(PROCESS)})"
)
_INSERT = (
    "INSERT INTO connection (key, process, records, count, first_ns, last_ns, "
    f"{', '.join(column.name for column in CONNECTION)}) VALUES (?, ?, ?, ?, ?, ?{', ?' * len(CONNECTION)})"
)
_BESIDE = [column for column in CONNECTION if column.name in BESIDE]
_UPDATE = f"""UPDATE connection SET records = records + ?1, count = count + ?2,
    first_ns = coalesce(min(first_ns, ?3), first_ns, ?3), last_ns = coalesce(max(last_ns, ?4), last_ns, ?4)
    {"".join(f", {column.name} = coalesce(?{at}, {column.name})" for at, column in enumerate(_BESIDE, 6))}
    WHERE key = ?5"""
_INSERT_LOSS = """INSERT INTO loss VALUES (?, ?, ?, ?)
    ON CONFLICT (run, stage, reason) DO UPDATE SET count = excluded.count"""
_DELETE_UNUSED = """DELETE FROM process WHERE id NOT IN (
    WITH RECURSIVE used (id) AS (
        SELECT process FROM connection WHERE process IS NOT NULL
        UNION SELECT parent FROM process JOIN used USING (id) WHERE parent IS NOT NULL)
    SELECT id FROM used)"""


class StoreFailed(OutputError):
    """Nothing was written this time; it may work later."""


class StoreWriter:
    """One run's hold on a store. For one thread at a time."""

    def __init__(self, path: str, most_rows: int) -> None:
        self._path = path
        self._most_rows = most_rows
        self._started_ns = time.time_ns()
        self._hold = -1
        self._database: sqlite3.Connection | None = None
        self._run = 0
        self._rows = 0
        self._numbers: dict[bytes, int] = {}
        """Rows of processes by their keys."""

    def open(self) -> None:
        """Open or make the store; OutputError says why it can't be this file, StoreFailed why not now."""
        self._hold = self._held()
        try:
            self._guarded(self._connect)
        except BaseException:
            self._let_go()
            raise

    def put(self, folded: Iterable[Folded], losses: dict[tuple[str, str], int], ended: bool = False) -> int:
        """Add what is folded and say what was lost until now, all or nothing; how many records found no room."""
        if self._database is None:
            self.open()
        return self._guarded(lambda: self._put(folded, losses, ended))

    def retire(self, before_ns: int) -> int:
        """Drop what was last seen before a time, and give its room back; how many rows."""
        return self._guarded(lambda: self._retire(before_ns))

    def is_in_place(self) -> bool:
        """Whether the name still means this file."""
        try:
            return os.path.samestat(Path(self._path).stat(), os.fstat(self._hold))
        except OSError:
            return False

    @property
    def moved(self) -> str:
        """What to say when it is not in place."""
        return f"{self._name} was moved or deleted; SIGHUP starts a new one there"

    def leave(self) -> None:
        """Close a file that has been moved, whole; StoreFailed where a reader is in the way."""
        if self._database is not None:
            if self._guarded(self._merge_log):
                raise StoreFailed(
                    f"cannot leave what was {self._name} while it is read; send SIGHUP again then"
                )
            self._let_go()

    def close(self) -> None:
        """Let go; may be called twice."""
        try:
            if self._database is not None:
                self._guarded(self._merge_log)
        finally:
            self._let_go()

    def _held(self) -> int:
        """The file, locked against other writers; SQLite's own locks would keep readers out as well."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OutputError(f"cannot use {self._name}: it is not a plain file")
            start = os.pread(fd, len(MAGIC), 0)
            if start and start != MAGIC:
                raise OutputError(f"cannot use {self._name}: it is no SQLite database; name another file")
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"cannot use {self._name}: another pyegress writes to it; give each a file of its own"
                ) from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _connect(self) -> None:
        path = os.fsencode(Path(self._path).absolute())
        database = self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ((application,),) = database.execute("PRAGMA application_id")
        ((version,),) = database.execute("PRAGMA user_version")
        ((tables,),) = database.execute("SELECT count(*) FROM sqlite_master")
        if tables and application != APPLICATION:
            why = "this SQLite database was not made by pyegress"
            raise OutputError(f"cannot use {self._name}: {why}; name another file")
        if version > VERSION:
            raise OutputError(f"cannot use {self._name}: made by a newer pyegress; name another file")
        # Without effect once there are tables.
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        # Commits are few, so each may wait for the disk: a power cut then costs no more than a kill.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("BEGIN IMMEDIATE")
        prepare(database)
        self._run = self._begun(database)
        ((self._rows,),) = database.execute("SELECT count(*) FROM connection")
        database.execute("COMMIT")

    def _begun(self, database: sqlite3.Connection) -> int:
        """This run's row; the same where the file is opened once more."""
        values = (__version__, self._started_ns)
        found = database.execute("SELECT id FROM run WHERE version = ? AND started_ns = ?", values).fetchone()
        if found is None:
            made = database.execute("INSERT INTO run (version, started_ns) VALUES (?, ?)", values)
            return int(made.lastrowid or 0)
        return int(found[0])

    def _put(self, folded: Iterable[Folded], losses: dict[tuple[str, str], int], ended: bool) -> int:
        database = self._opened
        database.execute("BEGIN IMMEDIATE")
        rows = self._rows
        without_room = records = 0
        for one in folded:
            times = (one.first_ns or None, one.last_ns or None)
            beside = [column.put(getattr(one.connection, column.name)) for column in _BESIDE]
            if not database.execute(_UPDATE, (one.records, one.count, *times, one.key, *beside)).rowcount:
                if rows >= self._most_rows:
                    without_room += one.records
                    continue
                rows += 1
                values = [column.put(getattr(one.connection, column.name)) for column in CONNECTION]
                process = self._number(one.process)
                database.execute(_INSERT, (one.key, process, one.records, one.count, *times, *values))
            records += one.records
        now = time.time_ns()
        database.execute(
            "UPDATE run SET stored_ns = ?, ended_ns = ?, records = records + ? WHERE id = ?",
            (now, now if ended else None, records, self._run),
        )
        counters = [(self._run, display(at), display(why), count) for (at, why), count in losses.items()]
        database.executemany(_INSERT_LOSS, counters)
        database.execute("COMMIT")
        self._rows = rows
        return without_room

    def _number(self, process: Process | None) -> int | None:
        """The row of a process, made with those of its parents where it isn't there."""
        if process is None:
            return None
        parent = self._number(process.parent)
        values = [column.put(getattr(process, column.name)) for column in PROCESS]
        key = digest(parent, *values)
        number = self._numbers.get(key)
        if number is None:
            found = self._opened.execute("SELECT id FROM process WHERE key = ?", (key,)).fetchone()
            if found is None:
                found = (self._opened.execute(_INSERT_PROCESS, (key, parent, *values)).lastrowid,)
            number = int(found[0])
            if len(self._numbers) >= _CACHED:
                self._numbers.clear()
            self._numbers[key] = number
        return number

    def _retire(self, before_ns: int) -> int:
        database = self._opened
        database.execute("BEGIN IMMEDIATE")
        gone = database.execute("DELETE FROM connection WHERE last_ns < ?", (before_ns,)).rowcount
        if gone:
            database.execute(_DELETE_UNUSED)
            self._numbers.clear()
        database.execute(
            "DELETE FROM run WHERE coalesce(ended_ns, stored_ns, started_ns) < ? AND id <> ?",
            (before_ns, self._run),
        )
        database.execute("COMMIT")
        self._rows -= gone
        # A page a step; execute would do one.
        database.executescript("PRAGMA incremental_vacuum")
        return gone

    def _merge_log(self) -> bool:
        """Bring what is in the write-ahead log into the file itself; whether a reader was in the way."""
        ((busy, _, _),) = self._opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return bool(busy)

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    def _guarded(self, action: Callable[[], R]) -> R:
        """Do something with the database, or nothing of it; raises StoreFailed or OutputError."""
        try:
            return action()
        except sqlite3.Error as error:
            # Rows of processes that were made are gone again.
            self._numbers.clear()
            if self._database is not None:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
            raise self._failed(error) from error

    def _let_go(self) -> None:
        database, self._database = self._database, None
        hold, self._hold = self._hold, -1
        self._numbers.clear()
        try:
            if database is not None:
                database.close()
        finally:
            # Only now: closing any descriptor of the file drops the locks that SQLite has on it.
            if hold >= 0:
                os.close(hold)

    @property
    def _name(self) -> str:
        return display(self._path)

    def _failed(self, error: sqlite3.Error | OSError | ValueError) -> OutputError:
        if isinstance(error, OSError) and error.errno is not None:
            why = f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"
            return StoreFailed(f"cannot write to {self._name}: {why}")
        if isinstance(error, sqlite3.Error) and str(error).startswith(_PASSING):
            return StoreFailed(f"cannot write to {self._name}: {display(str(error))}")
        return OutputError(f"cannot use {self._name}: {display(str(error))}; move it away to start a new one")

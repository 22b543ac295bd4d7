# SPDX-License-Identifier: MIT
"""Connections back from a store of the sqlite output."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.logs.schema import APPLICATION, CONNECTION, MAGIC, PROCESS, VERSION, columns_of
from pyegress.logs.unescape import undisplayed
from pyegress.losses import Losses
from pyegress.record import Connection, Process

_BATCH = 1000
_CACHED = 8192


def is_store(path: str) -> bool:
    """Whether it is a SQLite database; nothing is taken from what isn't a plain file."""
    try:
        if path == "-" or not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_store(path: str, losses: Losses) -> Iterator[Sequence[Connection]]:
    """What is stored, by time; of what came more than once the first and the last, which stands for one.

    A store that is being written to is read as it was when reading began. What its runs lost is added to `losses`.
    Raises InputError.
    """
    try:
        with closing(_opened(path)) as database:
            _check(path, database)
            database.execute("BEGIN")
            _add_losses(path, database, losses)
            yield from _connections(database, losses)
    except sqlite3.Error as error:
        raise InputError(f"cannot read {display(path)}: {display(str(error))}") from error


def _opened(path: str) -> sqlite3.Connection:
    address = "file:" + quote(os.fsencode(Path(path).absolute()))
    database = sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None)
    try:
        database.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        database.close()
        # A copy in a folder where nothing can be made, not even what readers share: nobody writes to it. But a log
        # beside it that can't be read holds what came last.
        whole = Path(path).absolute()
        if os.access(whole.parent, os.W_OK) or not os.access(path, os.R_OK) or Path(f"{whole}-wal").exists():
            raise
        database = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return database


def _check(path: str, database: sqlite3.Connection) -> None:
    ((application,),) = database.execute("PRAGMA application_id")
    ((version,),) = database.execute("PRAGMA user_version")
    if application != APPLICATION:
        raise InputError(f"cannot read {display(path)}: this SQLite database was not made by pyegress")
    if version > VERSION:
        raise InputError(f"cannot read {display(path)}: made by a newer pyegress; read it with that one")


def _add_losses(path: str, database: sqlite3.Connection, losses: Losses) -> None:
    for stage, reason, count in database.execute("SELECT stage, reason, sum(count) FROM loss GROUP BY 1, 2"):
        losses.add(undisplayed(stage), undisplayed(reason), count)
    ((unended, newest),) = database.execute(
        "SELECT count(*), max(id) = (SELECT max(id) FROM run) FROM run WHERE ended_ns IS NULL"
    )
    if newest and _is_written_to(path):
        unended -= 1
    losses.add("failed", "runs that were killed: what came after they last stored is missing", unended)


def _is_written_to(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _connections(database: sqlite3.Connection, losses: Losses) -> Iterator[list[Connection]]:
    there = columns_of(database, "connection")
    columns = [column for column in CONNECTION if column.name in there]
    names = ", ".join(column.name for column in columns)
    again = "records > 1 AND last_ns IS NOT first_ns"
    rows = database.execute(
        f"SELECT first_ns AS ts, count - ({again}), process, {names}, id FROM connection"
        f" UNION ALL SELECT last_ns, 1, process, {names}, id FROM connection WHERE {again} ORDER BY ts, id"
    )
    processes = _Processes(database)
    while found := rows.fetchmany(_BATCH):
        batch: list[Connection] = []
        for ts, count, process, *values, _ in found:
            try:
                given: dict[str, Any] = {
                    column.name: column.get(value) for column, value in zip(columns, values, strict=True)
                }
                given["process"] = processes.numbered(process)
                batch.append(Connection(ts=ts or 0, count=count, **given))
            except (TypeError, ValueError):
                losses.add("unreadable", "sqlite: rows that pyegress did not write")
        yield batch


class _Processes:
    """Those that are asked for; the same object for the same row, as long as it is remembered."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        there = columns_of(database, "process")
        self._columns = [column for column in PROCESS if column.name in there]
        names = ", ".join(column.name for column in self._columns)
        self._query = f"SELECT parent, {names} FROM process WHERE id = ?"
        self._known: dict[int, Process] = {}

    def numbered(self, number: int | None, generations: int = 9) -> Process | None:
        """The process of a row, with its parents."""
        if number is None or not generations:
            return None
        process = self._known.get(number)
        if process is None:
            row = self._database.execute(self._query, (number,)).fetchone()
            if row is None:
                raise ValueError("no such process")
            given = {
                column.name: column.get(value) for column, value in zip(self._columns, row[1:], strict=True)
            }
            process = Process(parent=self.numbered(row[0], generations - 1), **given)
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[number] = process
        return process

# SPDX-License-Identifier: MIT
"""Connections that differ in nothing that is kept, as one row with counts and times."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import msgspec

from pyegress.logs.schema import BESIDE, CONNECTION, digest
from pyegress.record import Connection, Process
from pyegress.redact import Redactor

_CACHED = 8192
_LATEST = (1 << 63) - 1
_kept = operator.attrgetter(*(column.name for column in CONNECTION if column.name not in BESIDE))

_Program = tuple[object, ...]


class Folded(msgspec.Struct, gc=False):
    """One row."""

    key: bytes
    connection: Connection
    """The first."""
    process: Process | None
    """Of the first, without secrets."""
    records: int = 0
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    """0 where no time is known."""


class Fold:
    """Gathers rows until they are taken away; at most so many."""

    def __init__(self, redact: bool, most: int) -> None:
        self._rows: dict[tuple[_Program | None, object], Folded] = {}
        self._most = most
        self._redactor = Redactor(redact)
        # The Process is kept beside its identity, so that its id can't become another's while it is a key.
        self._programs: dict[int, tuple[Process, _Program]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def records(self) -> int:
        """How many connections they are."""
        return sum(row.records for row in self._rows.values())

    def take(self) -> list[Folded]:
        """All that was gathered, and begin anew."""
        rows = list(self._rows.values())
        self._rows.clear()
        return rows

    def add(self, connections: Iterable[Connection]) -> int:
        """Count connections in; how many found no room."""
        rows = self._rows
        without_room = 0
        for connection in connections:
            process = connection.process
            key = (None if process is None else self._program(process), _kept(connection))
            row = rows.get(key)
            if row is None:
                if len(rows) >= self._most:
                    without_room += 1
                    continue
                shown = None if process is None else self._redactor.process(process)
                row = rows[key] = Folded(digest(*key), connection, shown)
            row.records += 1
            row.count += connection.count
            ts = connection.ts
            if 0 < ts <= _LATEST:
                if not row.first_ns or ts < row.first_ns:
                    row.first_ns = ts
                if ts > row.last_ns:
                    row.last_ns = ts
        return without_room

    def _program(self, process: Process) -> _Program:
        found = self._programs.get(id(process))
        if found is None:
            if len(self._programs) >= _CACHED:
                self._programs.clear()
            found = self._programs[id(process)] = process, _program(process)
        return found[1]


def _program(process: Process) -> _Program:
    """What is the same in another run of the same program, another login and another container of the same name."""
    parent = process.parent
    return (
        process.name or process.comm,
        process.exe,
        process.uid,
        process.user,
        process.slice if process.login_session else process.unit,
        process.user_unit,
        process.container_name or process.container,
        None if parent is None else parent.name or parent.comm,
        process.kernel,
    )

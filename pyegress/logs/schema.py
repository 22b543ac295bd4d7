# SPDX-License-Identifier: MIT
"""Tables of the store, whose columns are the record's fields, and values on their way in and out.

Text stands in it as `escape.display` shows it, so that it can be read with any tool on any terminal and is still
what it was, byte for byte, when it is read back.
"""

from __future__ import annotations

import json
import sqlite3
import typing
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from pyegress.escape import display
from pyegress.logs.unescape import undisplayed
from pyegress.record import Connection, Process

MAGIC = b"SQLite format 3\0"
APPLICATION = 0x70796567
"""Says whose database it is (PRAGMA application_id): `pyeg`."""
VERSION = 1
"""Of what can't be mended by adding columns (PRAGMA user_version)."""

VARYING = frozenset(
    (
        *("ts", "src_ip", "src_port", "count", "result", "netns", "process", "tid", "thread", "proc_thread"),
        "dest_name_ages",
    )
)
"""Fields of a connection that are not kept; what differs in others is another row, ..."""
BESIDE = frozenset(("dest_names_missing",))
"""... but for these, which a row has of one of its connections, a late one if it can."""

Value = str | int | None
_LARGEST = 1 << 63


class Column(NamedTuple):
    """A field of the record as a column."""

    name: str
    sql: str
    put: Callable[[Any], Value]
    get: Callable[[Any], Any]


def _put_number(value: int | None) -> int | None:
    """SQLite's are signed; numbers of cgroups may use all 64 bits."""
    return value - 2 * _LARGEST if value is not None and value >= _LARGEST else value


def _get_number(value: int | None) -> int | None:
    return value + 2 * _LARGEST if value is not None and value < 0 else value


def _put_text(value: str | None) -> str | None:
    return None if value is None else display(value)


def _get_text(value: str | None) -> str | None:
    return None if value is None else undisplayed(value)


def _put_names(value: tuple[str, ...]) -> str | None:
    return json.dumps([display(name) for name in value]) if value else None


def _get_names(value: str | None) -> tuple[str, ...]:
    return tuple(undisplayed(name) for name in json.loads(value)) if value else ()


def _columns(struct: type[msgspec.Struct], without: frozenset[str]) -> tuple[Column, ...]:
    found = []
    for name, kind in typing.get_type_hints(struct).items():
        if name in without or name not in struct.__struct_fields__:
            continue
        kinds = typing.get_args(kind) or (kind,)
        if typing.get_origin(kind) is tuple:
            found.append(Column(name, "TEXT", _put_names, _get_names))
        elif bool in kinds:
            found.append(Column(name, "INTEGER", int, bool))
        elif int in kinds:
            found.append(Column(name, "INTEGER", _put_number, _get_number))
        else:
            assert str in kinds, f"{name}: a kind of field that the store can't hold"
            found.append(Column(name, "TEXT", _put_text, _get_text))
    return tuple(found)


PROCESS = _columns(Process, frozenset(("parent",)))
CONNECTION = _columns(Connection, VARYING)


def digest(*values: object) -> bytes:
    """What a row is found by; whoever chooses the values can't make two alike."""
    return blake2b(ascii(values).encode(), digest_size=16).digest()


def prepare(database: sqlite3.Connection) -> None:
    """Make the tables, or add the columns that a younger record has."""
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    database.execute(f"PRAGMA user_version = {VERSION}")
    for statement in _TABLES:
        database.execute(statement)
    for table, columns in ("process", PROCESS), ("connection", CONNECTION):
        there = set(columns_of(database, table))
        for column in columns:
            if column.name not in there:
                database.execute(f"ALTER TABLE {table} ADD COLUMN {column.name} {column.sql}")
    database.execute("DROP VIEW IF EXISTS egress")
    database.execute(_VIEW)


def columns_of(database: sqlite3.Connection, table: str) -> list[str]:
    """Their names, in order; none where there is no such table."""
    return [str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")]


def _declared(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.sql}" for column in columns)


_TABLES = (
    f"""CREATE TABLE IF NOT EXISTS process (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, parent INTEGER REFERENCES process, {_declared(PROCESS)})""",
    f"""CREATE TABLE IF NOT EXISTS connection (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, process INTEGER REFERENCES process,
        records INTEGER NOT NULL, count INTEGER NOT NULL, first_ns INTEGER, last_ns INTEGER,
        {_declared(CONNECTION)})""",
    "CREATE INDEX IF NOT EXISTS connection_by_process ON connection (process)",
    "CREATE INDEX IF NOT EXISTS process_by_parent ON process (parent)",
    """CREATE TABLE IF NOT EXISTS run (
        id INTEGER PRIMARY KEY, version TEXT NOT NULL, started_ns INTEGER NOT NULL, stored_ns INTEGER,
        ended_ns INTEGER, records INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS loss (
        run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, stage TEXT NOT NULL, reason TEXT NOT NULL,
        count INTEGER NOT NULL, PRIMARY KEY (run, stage, reason)) WITHOUT ROWID""",
)
_VIEW = """CREATE VIEW egress AS SELECT
    p.name, p.exe, p.user, coalesce(p.user_unit, p.unit) AS unit, coalesce(p.container_name, p.container) AS container,
    parent.name AS parent, c.protocol, c.dest_ip, c.dest_port, c.dest_names, c.verdict, c.attribution, c.count,
    datetime(c.first_ns / 1000000000, 'unixepoch') AS first_seen,
    datetime(c.last_ns / 1000000000, 'unixepoch') AS last_seen, p.pid, p.cmdline
    FROM connection c LEFT JOIN process p ON p.id = c.process LEFT JOIN process parent ON parent.id = p.parent"""
"""For people: `SELECT * FROM egress ORDER BY first_seen`."""

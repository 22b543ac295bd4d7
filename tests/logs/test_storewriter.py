# SPDX-License-Identifier: MIT
"""A store is written all or nothing by one run at a time. What people see of it: tests/outputs/test_sqlite.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.logs.fold import Fold, Folded
from pyegress.logs.storewriter import StoreFailed, StoreWriter
from pyegress.record import Connection, Process


def folded(*ports: int) -> list[Folded]:
    fold = Fold(True, 100)
    process = Process(pid=1, name="curl", parent=Process(pid=2, name="bash"))
    fold.add([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", port, process=process) for port in ports])
    return fold.take()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_all_or_nothing(tmp_path: Path) -> None:
    """A failure in the middle leaves nothing, and what was made before it is made again the next time."""
    path = tmp_path / "a.db"
    store = StoreWriter(str(path), 100)
    store.open()
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON connection WHEN new.dest_port = 3"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(OutputError, match="no"):
            store.put(folded(1, 2, 3), {("lost", "x"): 1})
        assert database.execute("SELECT count(*) FROM connection").fetchone() == (0,)
        database.execute("DROP TRIGGER full")
    assert store.put(folded(1, 2, 3), {("lost", "x"): 1}) == 0
    assert store.put(folded(1), {("lost", "x"): 2}, ended=True) == 0
    store.close()
    store.close()
    assert rows(
        path, "SELECT c.dest_port, c.records, p.name FROM connection c JOIN process p ON p.id = c.process"
    ) == [
        (1, 2, "curl"),
        (2, 1, "curl"),
        (3, 1, "curl"),
    ]
    assert rows(path, "SELECT reason, count FROM loss") == [("x", 2)]
    assert rows(path, "SELECT records, ended_ns IS NULL FROM run") == [(4, 0)]


def test_what_may_pass_is_told_from_what_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = StoreWriter(str(path), 100)
    store.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store._opened.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(StoreFailed, match="locked"):
            store.put(folded(1), {})
        other.execute("ROLLBACK")
    assert store.put(folded(1), {}) == 0
    store.close()
    with pytest.raises(StoreFailed, match="No such file or directory"):
        StoreWriter(str(tmp_path / "no" / "a.db"), 1).open()


def test_a_store_that_was_left_is_opened_by_the_next_put(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = StoreWriter(str(path), 100)
    store.open()
    path.rename(tmp_path / "old.db")
    assert not store.is_in_place()
    store.leave()
    assert store.put(folded(5), {}) == 0
    assert store.is_in_place()
    store.close()
    assert rows(path, "SELECT dest_port FROM connection") == [(5,)]

# SPDX-License-Identifier: MIT
"""What a store holds comes back as connections, or as one line that says why not."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyegress.errors import InputError
from pyegress.logs.fold import Fold
from pyegress.logs.schema import MAGIC
from pyegress.logs.store import is_store, read_store
from pyegress.logs.storewriter import StoreWriter
from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules.model import Observations

PARENTS = Process(pid=2, name="bash", parent=Process(pid=1, name="systemd"))


def store(path: Path, *connections: Connection) -> None:
    fold = Fold(True, 100_000)
    fold.add(connections)
    writer = StoreWriter(str(path), 100_000)
    writer.open()
    writer.put(fold.take(), {}, ended=True)
    writer.close()


def connection(number: int = 1, ts: int = 1_000, count: int = 1) -> Connection:
    process = Process(pid=number, name=f"p{number}", uid=0, user="root", parent=PARENTS)
    return Connection(
        ts, "ebpf", "udp", 4, "192.0.2.1", 53, process=process, count=count, attribution="kernel"
    )


def read(path: Path, losses: Losses | None = None) -> list[Connection]:
    return [one for batch in read_store(str(path), losses or Losses()) for one in batch]


def test_many_rows_in_order_of_time_with_shared_processes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    given = [connection(number, ts=10_000 - number) for number in range(1, 3001)]
    store(path, *given)
    assert path.read_bytes().startswith(MAGIC)
    found = read(path)
    assert found == given[::-1]
    assert len({id(one.process.parent) for one in found if one.process}) == 1


def test_what_came_again_is_in_order_of_time_too(tmp_path: Path) -> None:
    """Loki takes no row of the first day behind one of the last."""
    path = tmp_path / "a.db"
    store(path, connection(1, ts=5), connection(2, ts=6), connection(1, ts=9, count=3), connection(3, ts=7))
    assert [(one.ts, one.count) for one in read(path)] == [(5, 3), (6, 1), (7, 1), (9, 1)]


@pytest.mark.parametrize(
    ("given", "back"),
    [
        ([connection(ts=5)], [(5, 1)]),
        ([connection(ts=5, count=7)], [(5, 7)]),
        ([connection(ts=5), connection(ts=5)], [(5, 2)]),
        ([connection(ts=5), connection(ts=9), connection(ts=7, count=3)], [(5, 4), (9, 1)]),
        ([connection(ts=0), connection(ts=0)], [(0, 2)]),
    ],
)
def test_rules_see_the_same_counts_and_times(
    tmp_path: Path, given: list[Connection], back: list[tuple[int, int]]
) -> None:
    """Whether they are made from the store or from what it was made of."""
    path = tmp_path / "a.db"
    store(path, *given)
    found = read(path)
    assert [(one.ts, one.count) for one in found] == back
    kept = []
    for connections in (given, found):
        observations = Observations("x", Losses(), live=False)
        observations.add(connections)
        kept.append(
            [(where, who, seen.count, seen.first_ns, seen.last_ns) for where, who, seen in observations]
        )
    assert kept[0] == kept[1]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can get to, other than tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_copy_where_nothing_can_be_made(open_folder: Path) -> None:
    """Such as a read-only medium: for somebody who isn't root, a folder of another user is one too."""
    path = open_folder / "a.db"
    store(path, connection())
    path.chmod(0o444)
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if read(path) == [connection()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_older_store_without_a_column(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store(path, connection())
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP VIEW egress")
        database.execute("ALTER TABLE connection DROP COLUMN verdict")
        database.execute("ALTER TABLE process DROP COLUMN loginuid")
    assert read(path) == [connection()]


def test_rows_that_somebody_changed_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store(path, connection(1), connection(2), connection(3), connection(4))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE process SET cmdline = 'a \\q' WHERE pid = 3")
        database.execute("UPDATE connection SET process = 99999 WHERE id = 1")
        database.execute("UPDATE process SET parent = id WHERE pid = 4")
    losses = Losses()
    assert [one.process.pid for one in read(path, losses) if one.process] == [2, 4]
    assert losses.snapshot() == {("unreadable", "sqlite: rows that pyegress did not write"): 2}


def cut(path: Path) -> None:
    store(path, connection())
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "unable to open database file"),
        (lambda path: path.write_text("x" * 200), "file is not a database"),
        (lambda path: path.write_bytes(b""), "was not made by pyegress"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE a (b)"), "was not made by pyegress"),
        (cut, "malformed"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_can_not_be_read_is_one_line(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "a? b#%.db"
    make(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=why) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_store_is_told_from_other_files(tmp_path: Path) -> None:
    path, other, pipe = tmp_path / "a.db", tmp_path / "b.log", tmp_path / "pipe"
    store(path)
    other.write_text("ts=1")
    os.mkfifo(pipe)
    assert is_store(str(path))
    assert not any(map(is_store, ["-", str(other), str(pipe), str(tmp_path), str(tmp_path / "none"), "\0"]))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff?#%41.db")
    store(path, connection())
    assert read(path) == [connection()]
    shutil.rmtree(tmp_path)

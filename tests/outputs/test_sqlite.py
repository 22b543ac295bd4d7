# SPDX-License-Identifier: MIT
"""An audit of weeks in one file: what went in comes out, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import msgspec
import pytest

from pyegress import options
from pyegress.errors import OutputError, UsageError
from pyegress.logs.store import read_store
from pyegress.losses import Losses
from pyegress.outputs import sqlite
from pyegress.outputs.sqlite import Sqlite, SqliteOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.logs.records import https

ROOT = Path(__file__).parents[2]
PATIENCE = 30
DAY = 86_400_000_000_000
NOW = 1_700_000_000_000_000_000
BASH = Process(pid=20, name="bash", user="ubuntu", uid=1000)
HOSTILE = 'x\n\x1b[2J"\\\u202e\x9b' + b"\xff\xfe".decode(errors="surrogateescape") + "\U0010ffff😀é"


def curl(pid: int = 300, cmdline: str = "curl https://a.example") -> Process:
    return Process(
        pid=pid,
        name="curl",
        exe="/usr/bin/curl",
        cmdline=cmdline,
        uid=1000,
        user="ubuntu",
        cgroup_id=(1 << 64) - 5,
        unit="session-1.scope",
        login_session="1",
        slice="user-1000.slice",
        parent=BASH,
    )


def connection(**changes: object) -> Connection:
    return https(**{"ts": NOW, "process": curl(), **changes})


class Said(SimpleQueue[str]):
    """Notices, which can be waited for."""

    def next(self) -> str:
        return self.get(timeout=PATIENCE)


@contextmanager
def opened(path: Path, **options: object) -> Iterator[tuple[Sqlite, Losses, Said]]:
    output = Sqlite(SqliteOptions(file=str(path), **options))  # type: ignore[arg-type]
    losses, said = Losses(), Said()
    output.open(Context(losses, said.put, print))
    try:
        yield output, losses, said
    finally:
        output.close()
        output.close()


def read(path: Path, losses: Losses | None = None) -> list[Connection]:
    found = [one for batch in read_store(str(path), losses or Losses()) for one in batch]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    return found


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_same_program_and_destination_are_one_row(tmp_path: Path) -> None:
    """Counts add up; first and last are kept; a command and its pid are those of the first."""
    path = tmp_path / "egress.db"
    with opened(path) as (output, _, _):
        output.write([connection(process=curl(pid), ts=NOW + pid, src_port=pid) for pid in range(1, 1001)])
        output.write([connection(dest_port=80)])
    with opened(path) as (output, _, _):
        output.write([connection(ts=NOW - 7, process=curl(5000))])
    assert rows(
        path, f"SELECT dest_port, records, count, first_ns - {NOW}, last_ns - {NOW} FROM connection"
    ) == [
        (443, 1001, 1001, -7, 1000),
        (80, 1, 1, 0, 0),
    ]
    first, other, last = read(path)
    assert (first.ts, first.count, last.ts, last.count) == (NOW - 7, 1000, NOW + 1000, 1)
    assert first.process is last.process and first.process == curl(1)
    assert other == connection(dest_port=80)
    assert rows(path, "SELECT name, parent, dest_ip, count, first_seen FROM egress LIMIT 1") == [
        ("curl", "bash", "192.0.2.1", 1001, "2023-11-14 22:13:19")
    ]


@pytest.mark.parametrize(
    "other",
    [
        connection(hook="nflog"),
        connection(protocol="udp"),
        connection(dest_ip="192.0.2.2"),
        connection(dest_port=None),
        connection(dest_ip="fe80::1", ip_version=6, ifname="eth0"),
        connection(attribution="process gone", process=None),
        connection(dest_names=("a.example", "b.example")),
        connection(verdict="drop"),
        connection(direction="in"),
        connection(kernel_socket=True),
        connection(process=Process(pid=1, name="wget", uid=1000, user="ubuntu")),
        connection(
            process=Process(pid=1, name="curl", exe="/tmp/curl", uid=1000, user="ubuntu", parent=BASH)
        ),
        connection(process=Process(pid=1, name="curl", container="abc")),
        connection(process=Process(pid=1, name="curl", parent=Process(pid=2, name="cron"))),
    ],
)
def test_what_differs_is_kept_apart(tmp_path: Path, other: Connection) -> None:
    path = tmp_path / "egress.db"
    with opened(path) as (output, _, _):
        output.write([connection(), other, connection(), other])
    assert rows(path, "SELECT records FROM connection") == [(2,), (2,)]
    assert [(one.process, one.count) for one in read(path)] == [(curl(), 2), (other.process, 2)]
    assert other in [msgspec.structs.replace(one, count=1) for one in read(path)]


def test_why_there_is_no_name_makes_no_row(tmp_path: Path) -> None:
    """A program is suspected of DNS over HTTPS only from some time on."""
    path = tmp_path / "egress.db"
    for why in None, "no-answer", "dot-or-doh", None:
        with opened(path) as (output, _, _):
            output.write([connection(dest_names_missing=why)])
    assert rows(path, "SELECT records, dest_names_missing FROM connection") == [(4, "dot-or-doh")]
    assert {one.dest_names_missing for one in read(path)} == {"dot-or-doh"}


def test_another_login_is_the_same_program(tmp_path: Path) -> None:
    """Sessions are numbered; weeks of them must not make rows without end."""
    path = tmp_path / "egress.db"
    again = msgspec.structs.replace(curl(), unit="session-2.scope", login_session="2")
    with opened(path) as (output, _, _):
        output.write([connection(), connection(process=again)])
    assert rows(path, "SELECT records FROM connection") == [(2,)]


def test_hostile_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """And stands in the file as text that is safe on a terminal."""
    path = tmp_path / "egress.db"
    process = Process(
        pid=1,
        name=HOSTILE,
        exe=HOSTILE,
        cmdline=HOSTILE,
        user=HOSTILE,
        container=HOSTILE,
        parent=Process(pid=2, name=HOSTILE),
    )
    given = connection(process=process, ifname=HOSTILE, dest_names=(HOSTILE, "b"), attribution=HOSTILE)
    with opened(path) as (output, _, _):
        output.write([given])
    assert read(path) == [given]
    for table in ("process", "connection"):
        for row in rows(path, f"SELECT * FROM {table}"):
            assert all(value.isprintable() for value in row if isinstance(value, str))


def test_secrets_are_not_stored_unless_asked_for(tmp_path: Path) -> None:
    secret = curl(cmdline="curl -H Authorization: Bearer geheim https://a.example")
    child = Process(pid=9, name="sh", cmdline="sh", parent=secret)
    for redact in (True, False):
        path = tmp_path / f"{redact}.db"
        with opened(path, redact=redact) as (output, _, _):
            output.write([connection(process=child)])
        assert (b"geheim" in path.read_bytes()) is not redact


def test_the_file_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    with opened(path) as (output, _, _):
        output.write([connection()])
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) & ~0o640 == 0, file
    assert [file.name for file in tmp_path.iterdir()] == ["egress.db"]


def test_it_is_written_in_time_though_nothing_happens(tmp_path: Path) -> None:
    """And can be read while it is written to."""
    path = tmp_path / "egress.db"
    with opened(path, flush=100_000_000) as (output, _, _):
        output.write([connection()])
        with closing(sqlite3.connect(path)) as database:
            # Each of these waits for as long as the writer is at work, so it is no busy loop for long.
            while not database.execute("SELECT count(*) FROM connection").fetchone()[0]:
                os.sched_yield()
        losses = Losses()
        assert read(path, losses) == [connection()]
        assert losses.snapshot() == {}


WRITER = """
import sys
sys.path[:0] = [{root!r}]
from pyegress.losses import Losses
from pyegress.outputs.sqlite import Sqlite, SqliteOptions
from pyegress.plugin import Context
from pyegress.record import Connection
output = Sqlite(SqliteOptions(file=sys.argv[1], flush=100_000_000))
output.open(Context(Losses(), print, print))
for number in range(1_000_000_000):
    output.write([Connection({now} + number, "ebpf", "tcp", 4, "192.0.2.1", 1 + number % 60000)] * 3)
"""


def test_kill_costs_only_what_was_not_yet_written(tmp_path: Path) -> None:
    """The file is whole, each batch in it or not, and says that the run was killed."""
    path = tmp_path / "egress.db"
    code = WRITER.format(root=str(ROOT), now=NOW)
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        count = 0
        while count < 50_000:
            assert writer.poll() is None
            if path.exists():
                with closing(sqlite3.connect(path)) as database:
                    try:
                        (count,) = database.execute(
                            "SELECT coalesce(sum(records), 0) FROM connection"
                        ).fetchone()
                    except sqlite3.OperationalError:
                        count = 0
        writer.send_signal(signal.SIGKILL)
    losses = Losses()
    found = read(path, losses)
    stored = sum(one.count for one in found)
    assert stored >= count and stored % 3 == 0
    assert rows(path, "SELECT records FROM run") == [(stored,)]
    ((key, runs),) = losses.snapshot().items()
    assert key[0] == "failed" and "killed" in key[1] and runs == 1
    with opened(path) as (output, _, _):
        output.write([connection()])
    assert sum(one.count for one in read(path)) == stored + 1


def test_losses_of_each_run_are_stored_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    for count in (3, 4):
        with opened(path) as (output, losses, _):
            output.write([connection()])
            losses.put("lost", "ebpf: ring buffer full", count)
            losses.add("skipped", f"by {HOSTILE}", 1)
    losses = Losses()
    read(path, losses)
    assert losses.snapshot() == {("lost", "ebpf: ring buffer full"): 7, ("skipped", f"by {HOSTILE}"): 2}
    assert rows(path, "SELECT count(*), count(ended_ns), sum(records) FROM run") == [(2, 2, 2)]


def test_old_rows_go_with_their_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still used stays however old its first time is, and the file gets its room back."""
    path = tmp_path / "egress.db"
    monkeypatch.setattr("pyegress.outputs.sqlite.time.time_ns", lambda: NOW)
    old = [
        connection(ts=NOW - 91 * DAY, dest_port=port, process=Process(pid=port, name=f"p{port}", parent=BASH))
        for port in range(1, 5001)
    ]
    with opened(path) as (output, _, _):
        output.write(
            [*old, connection(ts=NOW - 200 * DAY), connection(ts=NOW - DAY), connection(ts=0, dest_port=7)]
        )
    size = path.stat().st_size
    with opened(path, keep=90 * DAY) as (output, losses, _):
        assert losses.snapshot() == {("skipped", "sqlite: rows dropped by age (-O sqlite:keep)"): 5000}
    assert [(one.ts, one.dest_port) for one in read(path)] == [
        (0, 7),
        (NOW - 200 * DAY, 443),
        (NOW - DAY, 443),
    ]
    assert rows(path, "SELECT name FROM process ORDER BY id") == [("bash",), ("curl",)]
    assert path.stat().st_size < size / 10


def test_rows_have_a_limit_which_is_said(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    with opened(path, rows=10) as (output, losses, _):
        output.write([connection(dest_port=port) for port in range(1, 13)] * 2)
    counted = {("lost", "output sqlite: more different connections than -O sqlite:rows"): 4}
    assert losses.snapshot() == counted
    stored = Losses()
    read(path, stored)
    assert stored.snapshot() == counted
    with opened(path, rows=10) as (output, losses, _):
        output.write([connection(dest_port=1), connection(dest_port=99)])
    assert losses.total("lost") == 1
    assert sum(one.count for one in read(path)) == 21


def not_ours(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE a (b)")


def newer(path: Path) -> None:
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def torn(path: Path) -> None:
    with opened(path) as (output, _, _):
        output.write([connection(dest_port=port) for port in range(1, 2000)])
    data = bytearray(path.read_bytes())
    data[4096:40960] = os.urandom(36864)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda path: path.write_text("hello, I am a text file"),
            "it is no SQLite database; name another file",
        ),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20), "move it away"),
        (not_ours, "this SQLite database was not made by pyegress; name another file"),
        (newer, "made by a newer pyegress; name another file"),
        (torn, "malformed; move it away to start a new one"),
        (lambda path: os.mkfifo(path), "it is not a plain file"),
        (lambda path: path.mkdir(), "Is a directory (EISDIR)"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line_and_left_as_it_is(
    tmp_path: Path, make: object, why: str
) -> None:
    path = tmp_path / "a file"
    make(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else None
    output = Sqlite(SqliteOptions(file=str(path)))
    with pytest.raises(OutputError) as raised:
        output.open(Context(Losses(), print, print))
        output.write([connection()])
        output.close()
    output.close()
    assert why in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)
    if make is not torn:
        assert before == (path.read_bytes() if path.is_file() else None)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    output = Sqlite(SqliteOptions(file=str(tmp_path / "no" / "egress.db")))
    with pytest.raises(OutputError, match="No such file or directory"):
        output.open(Context(Losses(), print, print))


def test_standard_output_is_no_database() -> None:
    with pytest.raises(
        UsageError, match="^-O sqlite: file:-: a database can't be written to standard output"
    ):
        options.parse("-O", "sqlite", SqliteOptions, [("file", "-")])


def test_second_writer_is_refused(tmp_path: Path) -> None:
    """The first is not disturbed, and afterwards the file is free."""
    path = tmp_path / "egress.db"
    with opened(path) as (output, _, _):
        with pytest.raises(OutputError, match="another pyegress writes to it"), opened(path):
            pass
        output.write([connection()])
    with opened(path) as (output, _, _):
        output.write([connection()])
    assert sum(one.count for one in read(path)) == 2


def test_reopen_after_a_move_starts_a_new_file(tmp_path: Path) -> None:
    """Both are whole; a reopen of a file that is in place changes nothing."""
    path, old = tmp_path / "egress.db", tmp_path / "old.db"
    with opened(path) as (output, _, _):
        output.write([connection(dest_port=1)])
        output.reopen()
        output.write([connection(dest_port=2)])
        path.rename(old)
        output.reopen()
        output.write([connection(dest_port=3)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["egress.db", "old.db"]
    assert [one.dest_port for one in read(old)] == [1, 2]
    assert [one.dest_port for one in read(path)] == [3]


def test_a_move_while_somebody_reads_waits_for_the_next_reopen(tmp_path: Path) -> None:
    path, old = tmp_path / "egress.db", tmp_path / "old.db"
    with opened(path) as (output, _, _):
        output.write([connection(dest_port=1)])
        output.reopen()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM connection").fetchall()
            path.rename(old)
            with pytest.raises(OutputError, match="send SIGHUP again"):
                output.reopen()
            reader.execute("COMMIT")
        output.write([connection(dest_port=2)])
        output.reopen()
        output.write([connection(dest_port=3)])
    assert [one.dest_port for one in read(old)] == [1, 2]
    assert [one.dest_port for one in read(path)] == [3]


def test_a_file_that_goes_away_is_said(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    with opened(path, flush=100_000_000) as (output, _, said):
        path.unlink()
        output.write([connection()])
        assert "was moved or deleted; SIGHUP starts a new one there" in said.next()
        output.reopen()
        output.write([connection(dest_port=2)])
    assert [one.dest_port for one in read(path)] == [2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is full soon."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=600k") != 0:
        pytest.skip(f"can't mount: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(bytes(folder), 2)


def test_full_disk_is_said_and_nothing_is_lost_when_there_is_room_again(small_disk: Path) -> None:
    path = small_disk / "egress.db"
    batch = [
        connection(dest_port=port, process=Process(pid=port, name=f"p{port}")) for port in range(1, 3001)
    ]
    with opened(path, flush=100_000_000) as (output, losses, said):
        (small_disk / "filler").write_bytes(bytes(256 << 10))
        output.write(batch)
        notice = said.next()
        assert "full" in notice and notice.endswith("it is tried again")
        output.write(batch)
        (small_disk / "filler").unlink()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"tmpfs", bytes(small_disk), b"tmpfs", 32, b"size=16m") == 0
        assert said.next() == "sqlite: the database is written again"
    assert losses.snapshot() == {}
    assert sum(one.count for one in read(path)) == 6000


def test_full_disk_to_the_end_is_an_error_and_counted(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in memory has a limit too."""
    monkeypatch.setattr(sqlite, "MOST_WAITING", 3000)
    path = small_disk / "egress.db"
    batch = [
        connection(dest_port=port, process=Process(pid=port, name=f"p{port}")) for port in range(1, 4001)
    ]
    output = Sqlite(SqliteOptions(file=str(path)))
    losses = Losses()
    output.open(Context(losses, print, print))
    (small_disk / "filler").write_bytes(bytes(256 << 10))
    output.write(batch)
    with pytest.raises(OutputError, match="full"):
        output.close()
    assert losses.snapshot() == {
        ("lost", "output sqlite: the database can't be written and memory is full"): 1000,
        ("lost", "output sqlite: the database could not be written at exit"): 3000,
    }
    assert read(path) == []


def test_replay_waits_for_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log can be read later as well as now."""
    monkeypatch.setattr(sqlite, "_FULL", 1000)
    monkeypatch.setattr(sqlite, "MOST_WAITING", 3000)
    path = small_disk / "egress.db"
    output, losses, said = Sqlite(SqliteOptions(file=str(path))), Losses(), SimpleQueue[str]()
    output.open(Context(losses, said.put, print, waits=True))
    (small_disk / "filler").write_bytes(bytes(256 << 10))

    def write() -> None:
        for first in range(1, 8001, 1000):
            output.write(
                [
                    connection(dest_port=port, process=Process(pid=port, name=f"p{port}"))
                    for port in range(first, first + 1000)
                ]
            )
        output.close()

    thread = Thread(target=write, daemon=True)
    thread.start()
    assert "full" in said.get(timeout=60)
    (small_disk / "filler").unlink()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", bytes(small_disk), b"tmpfs", 32, b"size=16m") == 0
    thread.join(60)
    assert not thread.is_alive()
    assert losses.snapshot() == {}
    assert sum(one.count for one in read(path)) == 8000

# SPDX-License-Identifier: MIT
"""Batches in a folder outlive the program, whatever ends it."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.loki.spool import Spool, Spooled

BODY = gzip.compress(b"body")


def kept(spool: Spool, body: bytes, records: int = 1) -> Spooled:
    """A batch that there was room for."""
    entry = spool.put(body, records)
    assert entry is not None
    return entry


def test_what_is_left_is_found_in_order(tmp_path: Path) -> None:
    """With its records, also over 9 files; new ones come after."""
    first = Spool(str(tmp_path / "s"), 1 << 20)
    bodies = [gzip.compress(str(number).encode()) for number in range(12)]
    entries = [kept(first, body, 100 + number) for number, body in enumerate(bodies)]
    first.remove(entries[0])
    first.close()
    second = Spool(str(tmp_path / "s"), 1 << 20)
    assert second.left == entries[1:]
    assert [second.read(entry) for entry in second.left] == bodies[1:]
    assert kept(second, BODY).name > entries[-1].name
    second.close()


def test_bound(tmp_path: Path) -> None:
    """What is left of an earlier run counts too; what is removed does not."""
    spool = Spool(str(tmp_path), 2 * len(BODY))
    entry = kept(spool, BODY)
    spool.close()
    spool = Spool(str(tmp_path), 2 * len(BODY))
    kept(spool, BODY)
    assert spool.put(BODY, 1) is None
    spool.remove(entry)
    kept(spool, BODY)
    assert spool.put(BODY, 1) is None
    spool.close()


@pytest.mark.parametrize("torn", [b"", BODY[:-1], BODY[:5], BODY + b"x", b"x" * len(BODY)])
def test_torn_file(tmp_path: Path, torn: bytes) -> None:
    """As a power cut leaves it: known by its checksum."""
    spool = Spool(str(tmp_path), 1 << 20)
    entry = kept(spool, BODY)
    spool.close()
    (tmp_path / entry.name).write_bytes(torn)
    spool = Spool(str(tmp_path), 1 << 20)
    (entry,) = spool.left
    with pytest.raises(ValueError, match="torn"):
        spool.read(entry)
    spool.close()


def test_one_user_at_a_time(tmp_path: Path) -> None:
    """Two programs would send it twice."""
    spool = Spool(str(tmp_path), 1 << 20)
    with pytest.raises(OutputError, match="another pyegress uses it"):
        Spool(str(tmp_path), 1 << 20)
    spool.close()
    Spool(str(tmp_path), 1 << 20).close()


def test_kill_9(tmp_path: Path) -> None:
    """Killed in the middle of writing, again and again: every file that is there is whole, and the lock is free."""
    code = (
        "import sys; from pyegress.loki.spool import Spool; import gzip, os\n"
        "spool = Spool(sys.argv[1], 1 << 30); print('up', flush=True)\n"
        "while True: spool.put(gzip.compress(os.urandom(100_000)), 1)\n"
    )
    seen = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            while len(list(tmp_path.iterdir())) < seen + 20:
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        spool = Spool(str(tmp_path), 1 << 30)
        for entry in spool.left:
            assert len(spool.read(entry)) == entry.size
        seen = len(spool.left)
        assert not (tmp_path / ".part").exists()
        spool.close()


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    """Also links by the name of a batch."""
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "0000000000000001-5.json.gz").symlink_to("notes")
    spool = Spool(str(tmp_path), 1 << 20)
    assert spool.left == []
    spool.close()
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_others_must_not_write_there(tmp_path: Path, mode: int) -> None:
    """They could have things sent in our name."""
    tmp_path.chmod(mode)
    with pytest.raises(OutputError, match="others can write there"):
        Spool(str(tmp_path), 1 << 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_it_must_be_ours(tmp_path: Path) -> None:
    """Whoever owns it can write there."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(OutputError, match="others can write there"):
        Spool(str(tmp_path), 1 << 20)


@pytest.mark.parametrize(
    ("name", "why"), [("a/b", "No such file or directory (ENOENT)"), ("file/s", "ENOTDIR"), ("\0", "null")]
)
def test_cannot_be_made(tmp_path: Path, name: str, why: str) -> None:
    """One line with the cause."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as raised:
        Spool(f"{tmp_path}/{name}", 1 << 20)
    assert why in str(raised.value)
    assert str(raised.value).startswith("loki: cannot use spool /")
    assert str(raised.value).isprintable()


def test_made_for_the_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask."""
    old = os.umask(0)
    try:
        spool = Spool(str(tmp_path / "s"), 1 << 20)
        entry = kept(spool, BODY)
    finally:
        os.umask(old)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "s" / entry.name).stat().st_mode & 0o777 == 0o600
    spool.close()

# SPDX-License-Identifier: MIT
"""A big log that several processes read gives what one gives."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from pyegress.errors import InputError
from pyegress.logs import repeats, shares
from pyegress.logs.reader import LogReader
from pyegress.logs.shares import Share, Shares
from pyegress.losses import Losses
from pyegress.record import Repeats
from tests.logs.test_reader import FORMATS, RECORDS

_WORKERS = 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some KiB are big."""
    monkeypatch.setattr(shares, "_LEAST_BYTES", 10_000)
    monkeypatch.setattr(shares, "_processors", lambda: 1 + _WORKERS)
    # Those of the suite wait for its guests and hold nothing that a fork needs.
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def read(path: Path) -> tuple[list[Repeats], list[str]]:
    losses = Losses()
    found = [
        msgspec.structs.replace(
            each, connection=msgspec.structs.replace(each.connection, ts=0, src_port=None, count=1)
        )
        for each in chain(*LogReader(losses).repeats(str(path)))
    ]
    return found, losses.lines()


def text_of(form: str) -> bytes:
    """Lines of each kind: empty and damaged ones, those that stand alone, and one without its end."""
    lines = FORMATS[form](RECORDS[1:]).splitlines(keepends=True)
    lines[10] = b"\n"
    lines[4000:4000] = [b"hook=ebpf dest_ip=nowhere\n", b"\n", lines[3].replace(b"Z", b"+00:00", 1)]
    return b"".join(lines) + lines[5][:-1]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("most", [200_000, 50])
def test_same_as_one_process(
    form: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In the same order, as far as memory holds all; and what is damaged is counted once."""
    path = tmp_path / "log"
    path.write_bytes(text_of(form))
    expected, lost = read(path)
    request.getfixturevalue("small")
    monkeypatch.setattr(repeats, "_MOST", most)
    with closing(Shares(str(path))) as made:
        assert made.is_worth_it
    found, also_lost = read(path)
    assert also_lost == lost
    if most > len(expected):
        assert found == expected
    assert sum(each.records for each in found) == sum(each.records for each in expected)
    assert {each.connection for each in found} == {each.connection for each in expected}


@pytest.mark.usefixtures("small")
def test_no_log(tmp_path: Path) -> None:
    """It is said as for a small one."""
    path = tmp_path / "log"
    path.write_bytes(b"some text\n" * 10_000)
    with pytest.raises(InputError, match="not a log of pyegress"):
        read(path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("data", [b"", b"x" * 50_000, gzip.compress(os.urandom(50_000)), b"\n" * 100])
def test_not_worth_it(data: bytes, tmp_path: Path) -> None:
    """Small, of one line, or compressed."""
    path = tmp_path / "log"
    path.write_bytes(data)
    with closing(Shares(str(path))) as made:
        assert not made.is_worth_it
        assert not [*made.results()]


@pytest.mark.usefixtures("small")
def test_killed(tmp_path: Path) -> None:
    """What was made of a part of the file doesn't pass for all of it."""

    def make(share: Share) -> Iterator[bytes]:
        yield b"some"
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "log"
    path.write_bytes(b"line\n" * 10_000)
    with closing(Shares(str(path))) as made:
        made.start(make)
        results = made.results()
        assert next(results) == b"some"
        with pytest.raises(InputError, match=r"a process that read a part of it was ended \(signal 9\)"):
            next(results)


@pytest.mark.usefixtures("small")
def test_first_killed(tmp_path: Path) -> None:
    """The others don't go on for nobody."""
    path = tmp_path / "log"
    path.write_bytes(b"line\n" * 10_000)
    reading, writing = os.pipe()

    def make(share: Share) -> Iterator[bytes]:
        os.write(writing, b".")
        view = memoryview(bytearray(1))
        while True:
            share.read_into(view)
        yield b""

    def first() -> None:
        Shares(str(path)).start(make)
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=first)
    process.start()
    os.close(writing)
    for _ in range(_WORKERS):
        assert os.read(reading, 1) == b"."
    process.kill()
    process.join()
    assert select.select([reading], [], [], 60)[0]
    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.usefixtures("small")
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-c is the first one's, however early it comes."""

    def make(share: Share) -> Iterator[bytes]:
        os.kill(os.getpid(), signal.SIGINT)
        yield b"some"

    path = tmp_path / "log"
    path.write_bytes(b"line\n" * 10_000)
    with closing(Shares(str(path))) as made:
        made.start(make)
        assert [*made.results()] == [b"some"] * _WORKERS


@pytest.mark.usefixtures("small")
def test_no_process_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reads all."""
    path = tmp_path / "log"
    path.write_bytes(text_of("json"))

    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process")

    expected = read(path)
    monkeypatch.setattr(os, "fork", fork)
    assert read(path) == expected


@pytest.mark.usefixtures("small")
def test_fails(tmp_path: Path) -> None:
    """The error of another process is the error."""

    def make(share: Share) -> Iterator[bytes]:
        raise InputError(f"cannot read {share.name}")
        yield b""

    path = tmp_path / "log"
    path.write_bytes(b"line\n" * 10_000)
    with closing(Shares(str(path))) as made:
        made.start(make)
        with pytest.raises(InputError, match="cannot read .*log"):
            next(made.results())


@pytest.mark.usefixtures("small")
def test_every_line_once(tmp_path: Path) -> None:
    """Shares end with lines, the last one where the file does."""
    path = tmp_path / "log"
    lines = [b"%d" % at * (at % 50) for at in range(1000)]
    path.write_bytes(b"\n".join(lines))

    def make(share: Share) -> Iterator[bytes]:
        view = memoryview(bytearray(1000))
        while came := share.read_into(view):
            yield bytes(view[:came])

    with closing(Shares(str(path))) as made:
        first = b"".join(make(made.start(make)))
        assert first.endswith(b"\n")
        assert first + b"".join(made.results()) == path.read_bytes()


@pytest.mark.usefixtures("small")
def test_ended_early(tmp_path: Path) -> None:
    """Processes that wait until they are heard end with the first one's interest."""
    path = tmp_path / "log"
    path.write_bytes(text_of("logfmt") * 3)
    several = LogReader(Losses()).repeats(str(path))
    next(several)
    several.close()  # type: ignore[attr-defined]
    with closing(Shares(str(path))) as made:
        made.start(lambda share: iter([bytes(1 << 20)]))
        workers = [worker for worker, _ in made._workers]
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * _WORKERS

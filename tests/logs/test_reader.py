# SPDX-License-Identifier: MIT
"""Files of earlier logs: found out, read, and what is damaged in them counted."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyegress.errors import InputError
from pyegress.logs.jsonl import Encoder
from pyegress.logs.lines import LINE_BYTES
from pyegress.logs.reader import LogReader
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process
from tests.logs import test_upstream

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CURL = Process(pid=300, name="curl", parent=Process(pid=1, name="init"))
RECORDS = [
    Connection(
        1_700_000_000_000_000_000 + at,
        "ebpf",
        "udp",
        4,
        f"192.0.2.{at % 100}",
        443,
        src_port=at,
        process=CURL,
    )
    for at in range(5000)
]


def logfmt(records: list[Connection]) -> bytes:
    return Logfmt(LogfmtOptions(redact=False)).lines(records).encode()


def jsonl(records: list[Connection]) -> bytes:
    return Encoder().lines(records)


FORMATS: dict[str, Callable[[list[Connection]], bytes]] = {"logfmt": logfmt, "json": jsonl}
both = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)


def read(*paths: Path | str) -> tuple[list[Connection], list[str]]:
    """All records of some files, and the losses as they are said."""
    losses = Losses()
    reader = LogReader(losses)
    batches = [batch for path in paths for batch in reader.read(str(path))]
    assert all(0 < len(batch) <= 10_000 for batch in batches)
    return [connection for batch in batches for connection in batch], losses.lines()


@pytest.fixture
def log(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "egress.log"
        path.write_bytes(data)
        return path

    return write


@both
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
def test_file(
    log: Callable[[bytes], Path], form: Callable[[list[Connection]], bytes], pack: Callable[[bytes], bytes]
) -> None:
    """Plain, and compressed as logrotate does."""
    found, losses = read(log(pack(form(RECORDS))))
    assert found == RECORDS
    assert not losses
    assert len({id(connection.process) for connection in found}) == 1


def test_files_one_after_the_other(tmp_path: Path) -> None:
    """Also of several formats."""
    for name, data in (("a", jsonl(RECORDS[:2])), ("b", logfmt(RECORDS[2:4])), ("c", jsonl(RECORDS[4:6]))):
        (tmp_path / name).write_bytes(data)
    assert read(tmp_path / "a", tmp_path / "b", tmp_path / "c") == (RECORDS[:6], [])


def test_log_of_egress_auditor(log: Callable[[bytes], Path]) -> None:
    assert read(log(test_upstream.LINE + b"\n")) == ([test_upstream.RECORD], [])


@both
def test_standard_input(form: Callable[[list[Connection]], bytes], log: Callable[[bytes], Path]) -> None:
    saved, file = os.dup(0), os.open(log(form(RECORDS[:3])), os.O_RDONLY)
    try:
        os.dup2(file, 0)
        assert read("-") == (RECORDS[:3], [])
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(file)


@both
@pytest.mark.parametrize(
    "damage", [b"garbage", b"\xff\xfe", b"{}", b"ts=1", b"x" * (LINE_BYTES + 1), b"\0" * 4096, b"[[" * 5000]
)
def test_damaged_lines_are_counted_and_the_rest_is_read(
    log: Callable[[bytes], Path], form: Callable[[list[Connection]], bytes], damage: bytes
) -> None:
    path = log(form(RECORDS[:2]) + damage + b"\n\n  \n" + form(RECORDS[2:4]) + damage + b"\n")
    found, losses = read(path)
    assert found == RECORDS[:4]
    assert losses == [f"unreadable: 2 {path}: lines that are no record of pyegress"]


def test_last_line_without_an_end(log: Callable[[bytes], Path]) -> None:
    """Half a line of logfmt can look whole, with another process; half an object can't."""
    path = log(logfmt(RECORDS[:2])[:-1])
    assert read(path) == (RECORDS[:1], [f"unreadable: 1 {path}: lines that are no record of pyegress"])
    assert read(log(jsonl(RECORDS[:2])[:-1])) == (RECORDS[:2], [])
    assert len(read(log(jsonl(RECORDS[:2])[:-2]))[1]) == 1


@both
def test_first_line_may_be_damaged(
    log: Callable[[bytes], Path], form: Callable[[list[Connection]], bytes]
) -> None:
    """As where a log was cut at its beginning."""
    data = form(RECORDS[:3])
    found, losses = read(log(b"\n\n" + data[40:]))
    assert found == RECORDS[1:3]
    assert len(losses) == 1


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \r\n"])
def test_empty_log_is_fine(log: Callable[[bytes], Path], data: bytes) -> None:
    assert read(log(data)) == ([], [])


@pytest.mark.parametrize(
    "data",
    [
        b"a text\nabout ts=1\n",
        b'{\n  "name": "x"\n}\n',
        b'{"level":"info"}',
        b"level=info msg=x\n",
        os.urandom(300).replace(b"=", b"") + b"\n",
        b"x" * (LINE_BYTES + 5),
        b"\x7fELF\0\0",
    ],
)
def test_what_is_no_log_is_an_error(log: Callable[[bytes], Path], data: bytes) -> None:
    path = log(data)
    with pytest.raises(InputError, match="not a log of pyegress") as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("path", ["/nowhere/egress.log", "/", "/nowhere/\udcff\n"])
def test_file_that_cannot_be_opened_is_an_error(path: str) -> None:
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).isprintable()


def test_compressed_log_that_ends_early(log: Callable[[bytes], Path]) -> None:
    """What is there is read."""
    packed = gzip.compress(logfmt(RECORDS))
    path = log(packed[: len(packed) // 2])
    found, losses = read(path)
    assert 0 < len(found) < len(RECORDS)
    assert found == RECORDS[: len(found)]
    assert f"unreadable: 1 {path}: compressed data that ends early" in losses

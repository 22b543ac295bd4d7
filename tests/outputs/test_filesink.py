# SPDX-License-Identifier: MIT
"""Bytes arrive whole, or the reason is said."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.outputs.filesink import FileSink


def test_appends_with_mode_0640(tmp_path: Path) -> None:
    path = tmp_path / "log"
    old = os.umask(0)
    try:
        for data in (b"a\n", b"b\n"):
            sink = FileSink(str(path))
            sink.write(data)
            sink.close()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"a\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("path", ["", "-"])
def test_stdout(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    sink = FileSink(path)
    sink.write(b"seen\n")
    sink.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "seen\nstill open\n"
    with pytest.raises(OutputError, match="closed"):
        sink.write(b"late\n")


def test_reopen_follows_the_name(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = FileSink(str(path))
    sink.write(b"1\n")
    path.rename(tmp_path / "log.1")
    sink.write(b"2\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    sink.reopen()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    sink.write(b"3\n")
    sink.close()
    assert (tmp_path / "log.1").read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


def test_failed_reopen_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = FileSink(str(path))
    path.rename(tmp_path / "log.1")
    path.mkdir()
    with pytest.raises(OutputError, match=r"cannot open .*/log: Is a directory \(EISDIR\)"):
        sink.reopen()
    sink.write(b"on\n")
    sink.close()
    assert (tmp_path / "log.1").read_bytes() == b"on\n"


def test_close_twice_leaves_other_files_alone(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "log"))
    sink.close()
    reader, writer = os.pipe()
    sink.close()
    os.write(writer, b"x")
    os.close(writer)
    os.close(reader)


def test_full_disk_is_an_error() -> None:
    sink = FileSink("/dev/full")
    with pytest.raises(OutputError, match=r"cannot write to /dev/full: No space left on device \(ENOSPC\)"):
        sink.write(b"x\n")
    sink.close()


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\\nb/log: No such file or directory \(ENOENT\)"):
        FileSink(str(tmp_path / "a\nb" / "log"))


@contextmanager
def stdout_pipe() -> Iterator[int]:
    """The reading end of a pipe that is fd 1 meanwhile."""
    reader, writer = os.pipe()
    saved = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_gone_reader_is_broken_pipe() -> None:
    with stdout_pipe() as reader:
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            FileSink("-").write(b"x\n")


def test_nonblocking_stdout_gets_everything() -> None:
    data = b"0123456789abcde\n" * 65536
    got = bytearray()

    def read(reader: int) -> None:
        while len(got) < len(data):
            got.extend(os.read(reader, 65536))

    with stdout_pipe() as reader:
        os.set_blocking(1, False)
        thread = threading.Thread(target=read, args=(reader,), daemon=True)
        thread.start()
        FileSink("-").write(data)
        thread.join(10)
        os.close(reader)
    # Compared without a message: pytest would print both.
    same = bytes(got) == data
    assert same

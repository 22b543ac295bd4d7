# SPDX-License-Identifier: MIT
"""Lines of streams, wherever reads end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pyegress.decode.stream import Stream
from pyegress.logs.lines import LINE_BYTES, Lines


def read(path: str) -> tuple[list[bytes], Lines]:
    """All whole lines, and the rest."""
    stream = Stream(path)
    lines = Lines(stream)
    found = [line for some in lines for line in some]
    stream.close()
    return found, lines


def file_of(folder: Path, data: bytes) -> str:
    path = folder / "file"
    path.write_bytes(data)
    return str(path)


def test_whole_lines_and_what_is_left(tmp_path: Path) -> None:
    """Short ones, and ones that are longer than a read."""
    given_lines = [
        b"",
        b"a",
        b"b" * 300_000,
        b"",
        b"c" * (LINE_BYTES - 1),
        *([b"d"] * 500_000),
        b"e" * LINE_BYTES,
    ]
    found, lines = read(file_of(tmp_path, b"\n".join([*given_lines, b"rest"])))
    assert found == given_lines
    assert lines.unfinished == b"rest"
    assert lines.too_long == 0


def test_too_long_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    long = b"x" * (LINE_BYTES + 1)
    found, lines = read(file_of(tmp_path, b"\n".join([long, b"a", long * 3, b"b", long])))
    assert found == [b"a", b"b"]
    assert lines.too_long == 3
    assert lines.unfinished == b""


def test_empty(tmp_path: Path) -> None:
    assert read(file_of(tmp_path, b""))[0] == []


def test_pipe_that_gives_little_by_little() -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            for byte in b"first\nsecond\nthird":
                file.write(bytes([byte]))

    threading.Thread(target=write, daemon=True).start()
    found, lines = read(f"/dev/fd/{reader}")
    os.close(reader)
    assert (found, lines.unfinished) == ([b"first", b"second"], b"third")


def test_stopped_where_nothing_comes() -> None:
    """What came until then is there; a part of a line is not called a rest that was lost."""
    reader, writer = os.pipe()
    os.write(writer, b"first\nsec")
    stream = Stream(f"/dev/fd/{reader}")
    lines = Lines(stream, lambda: True)
    assert [line for some in lines for line in some] == [b"first"]
    assert lines.unfinished == b""
    stream.close()
    os.close(reader)
    os.close(writer)

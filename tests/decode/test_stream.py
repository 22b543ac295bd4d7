# SPDX-License-Identifier: MIT
"""Streams: the bytes of files, pipes and compressed data, however they arrive, and what can't be read."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyegress.decode.stream import Progress, Stream, _zstd
from pyegress.errors import InputError

zstd = _zstd()
DATA = random.Random(1).randbytes(70_000) + bytes(300_000) + b"end"
COMPRESS = {"gzip": gzip.compress, "zstd": zstd.compress}


def read(stream: Stream, view_bytes: int = 1 << 16) -> bytes:
    """All bytes, in pieces."""
    view = memoryview(bytearray(view_bytes))
    found = bytearray()
    while (came := stream.read_into(view)) != 0:
        if came is None:
            continue
        found += view[:came]
    stream.close()
    return bytes(found)


def stream_of(tmp_path: Path, data: bytes) -> Stream:
    """A file of these bytes."""
    path = tmp_path / "file"
    path.write_bytes(data)
    return Stream(str(path))


def pipe_of(data: bytes) -> Stream:
    """A pipe into which somebody writes these bytes, little by little at first."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            for at in range(8):
                file.write(data[at : at + 1])
            file.write(data[8:])

    threading.Thread(target=write, daemon=True).start()
    stream = Stream(f"/dev/fd/{reader}")
    os.close(reader)
    return stream


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"\x28\xb5\x2f", b"abcd", b"abcde", DATA])
def test_plain(tmp_path: Path, data: bytes) -> None:
    """What is not compressed comes as it is, also from a pipe."""
    assert read(stream_of(tmp_path, data)) == data
    assert read(pipe_of(data)) == data


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("data", [b"", b"a", DATA], ids=["empty", "one", "many"])
def test_compressed(tmp_path: Path, kind: str, data: bytes) -> None:
    """Compression is seen by its first bytes, whatever the file is called, also in a pipe."""
    compressed = COMPRESS[kind](data)
    for stream in stream_of(tmp_path, compressed), pipe_of(compressed):
        assert read(stream) == data
        assert not stream.cut_short


@pytest.mark.parametrize("kind", COMPRESS)
def test_members_one_after_the_other(tmp_path: Path, kind: str) -> None:
    """Compressed files that were put together are one, also empty ones, and zeros at the end are padding."""
    compress = COMPRESS[kind]
    members = (DATA, b"", b"a", b"", *([b"x"] * 500))
    assert read(stream_of(tmp_path, b"".join(map(compress, members)) + bytes(1000))) == b"".join(members)


def test_skippable_frames_of_zstd(tmp_path: Path) -> None:
    """Tools put notes of their own between frames."""
    note = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    compressed = zstd.compress(b"one") + note + zstd.compress(b"two") + note
    assert read(stream_of(tmp_path, compressed)) == b"onetwo"


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_file_that_ends_too_early(tmp_path: Path, kind: str) -> None:
    """What could be expanded comes first; then it is said that there was more."""
    stream = stream_of(tmp_path, COMPRESS[kind](DATA)[:-1])
    found = read(stream)
    assert DATA.startswith(found)
    assert len(found) > 60_000
    assert stream.cut_short


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_file_that_ends_before_its_first_byte(tmp_path: Path, kind: str) -> None:
    """It is not called empty."""
    with pytest.raises(InputError, match=f"its {kind} data ends before the first byte"):
        read(stream_of(tmp_path, COMPRESS[kind](DATA)[:8]))


@pytest.mark.parametrize("kind", COMPRESS)
def test_members_without_a_byte(tmp_path: Path, kind: str) -> None:
    """However many there are, whoever reads gets a word from time to time."""
    stream = stream_of(tmp_path, COMPRESS[kind](b"") * 10_000 + COMPRESS[kind](b"end"))
    view = memoryview(bytearray(16))
    assert stream.read_into(view) is None
    assert read(stream) == b"end"


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("where", ["head", "middle", "behind"])
def test_corrupt_compressed_data(tmp_path: Path, kind: str, where: str) -> None:
    """The error names file and kind."""
    data = bytearray(COMPRESS[kind](random.Random(2).randbytes(100) * 50 + DATA))
    if where == "head":
        data[4:12] = b"\xff" * 8
    elif where == "middle":
        data[200:] = data[200:][::-1]
    else:
        data += b"garbage"
    with pytest.raises(InputError, match=rf"^cannot read {tmp_path}/file: corrupt {kind} data: .+$"):
        read(stream_of(tmp_path, bytes(data)))


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("view_bytes", [4, 7, 4096, 1 << 20])
def test_views_of_any_size(tmp_path: Path, kind: str, view_bytes: int) -> None:
    """No more is expanded than fits, and nothing of it is lost."""
    data = DATA[60_000:80_000]
    assert read(stream_of(tmp_path, COMPRESS[kind](data)), view_bytes) == data


@pytest.mark.parametrize("kind", COMPRESS)
def test_bomb_is_expanded_piece_by_piece(tmp_path: Path, kind: str) -> None:
    """Half a gigabyte of zeros needs no more memory than its pieces."""
    bomb = tmp_path / "bomb"
    bomb.write_bytes(COMPRESS[kind](bytes(1 << 24)) * 32)
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from pyegress.decode.stream import Stream\n"
        "stream, view, total = Stream(sys.argv[1]), memoryview(bytearray(1 << 16)), 0\n"
        "while came := stream.read_into(view): total += came\n"
        "print(total, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bomb], capture_output=True, text=True, check=True)
    total, peak_kb = map(int, done.stdout.split())
    assert total == 1 << 29
    assert peak_kb < 100_000


def test_progress(tmp_path: Path) -> None:
    """Of a compressed file it is that of the bytes that lie there; a pipe has no end that is known."""
    compressed = gzip.compress(DATA)
    stream = stream_of(tmp_path, compressed)
    assert stream.progress == Progress(0, len(compressed))
    stream.read_into(memoryview(bytearray(100)))
    assert 0 < stream.progress.read_bytes < len(compressed)
    read(stream)
    assert stream.progress == Progress(len(compressed), len(compressed))
    pipe = pipe_of(DATA)
    read(pipe)
    assert pipe.progress == Progress(len(DATA), None)


def test_nothing_yet(tmp_path: Path) -> None:
    """A named pipe without a writer, and then one that writes little, keeps nobody waiting for long."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    view = memoryview(bytearray(16))
    stream = Stream(str(path))
    assert stream.read_into(view) is None
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"ab")
    assert stream.read_into(view) is None
    os.write(writer, b"cdef")
    found = b""
    while len(found) < 6:
        found += view[: stream.read_into(view) or 0]
    assert found == b"abcdef"
    assert stream.read_into(view) is None
    os.close(writer)
    assert stream.read_into(view) == 0
    stream.close()


def test_standard_input() -> None:
    """`-` reads it, and its name in messages is not `-`."""
    code = (
        "from pyegress.decode.stream import Stream\n"
        "stream, view = Stream('-'), memoryview(bytearray(16))\n"
        "came = stream.read_into(view)\n"
        "print(stream.name, bytes(view[:came]).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=gzip.compress(b"hello"), capture_output=True, check=True
    )
    assert done.stdout == b"standard input hello\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"cannot open {}/missing: No such file or directory \(ENOENT\)"),
        ("loop", r"cannot open {}/loop: Too many levels of symbolic links \(ELOOP\)"),
        ("file/below", r"cannot open {}/file/below: Not a directory \(ENOTDIR\)"),
        ("folder", r"cannot read {}/folder: it is a directory"),
        ("a\n\x1b[31m", r"cannot open {}/a\\n\\u001b\[31m: No such file or directory \(ENOENT\)"),
    ],
)
def test_what_can_not_be_opened(tmp_path: Path, name: str, message: str) -> None:
    """The error says which file and why, in one line whatever it is called."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"^{message.format(tmp_path)}$"):
        Stream(str(tmp_path / name))


def test_terminal() -> None:
    """A command line that forgot the file does not wait for somebody to type one."""
    _, terminal = os.openpty()
    with pytest.raises(InputError, match="it is a terminal$"):
        Stream(os.ttyname(terminal))


def test_read_error() -> None:
    """What fails later says so as well."""
    stream = Stream("/proc/self/mem")
    with pytest.raises(InputError, match=r"^cannot read /proc/self/mem: Input/output error \(EIO\)$"):
        read(stream)


def test_close_twice(tmp_path: Path) -> None:
    """The second time nothing of another's is closed."""
    stream = stream_of(tmp_path, b"data")
    stream.close()
    other = os.open(os.devnull, os.O_RDONLY)
    stream.close()
    os.close(other)

# SPDX-License-Identifier: MIT
"""Bytes of a file, a pipe or standard input, decompressed where they begin as gzip or zstd does."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import zlib
from typing import Any, NamedTuple

from pyegress.errors import InputError
from pyegress.escape import display

IDLE_MS = 100
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES = 4
_COMPRESSED_BYTES = 1 << 15
"""Small, because what follows a member is copied: a file may have many tiny ones."""


class Progress(NamedTuple):
    """How much of a file was read, as it lies there: of a compressed one, compressed bytes."""

    read_bytes: int
    total_bytes: int | None
    """None for what has no size, such as a pipe."""


class Stream:
    """Reads `path` once, or standard input for `-`. Raises InputError, which names it and the cause."""

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else display(path)
        self._file = _File(path, self.name)
        self._magic = b""
        self._source: _File | _Expander | None = None

    @property
    def progress(self) -> Progress:
        """How far it is read."""
        return Progress(self._file.read_bytes, self._file.total_bytes)

    @property
    def cut_short(self) -> bool:
        """Whether it ended inside its compressed data."""
        return isinstance(self._source, _Expander) and self._source.cut_short

    def read_into(self, view: memoryview) -> int | None:
        """Put bytes to a view of at least 4; how many, 0 at the end, None where there are none yet."""
        if self._source is not None:
            return self._source.read_into(view)
        while len(self._magic) < _MAGIC_BYTES:
            piece = memoryview(bytearray(_MAGIC_BYTES - len(self._magic)))
            came = self._file.read_into(piece)
            if came is None:
                return None
            if came == 0:
                break
            self._magic += piece[:came]
        if self._magic.startswith(GZIP):
            self._source = _Expander(self._file, self._magic, "gzip", _gzip_member, zlib.error)
        elif self._magic == ZSTD:
            zstd = _zstd()
            self._source = _Expander(self._file, self._magic, "zstd", zstd.ZstdDecompressor, zstd.ZstdError)
        else:
            self._source = self._file
            view[: len(self._magic)] = self._magic
            return len(self._magic)
        return self._source.read_into(view)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._file.close()


class _File:
    """Bytes as they lie there."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.read_bytes = 0
        self._fd = 0
        self._is_open = path != "-"
        try:
            if self._is_open:
                # NONBLOCK: otherwise opening a named pipe waits for its writer, and can't be stopped.
                self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(self._fd)
        except OSError as error:
            raise InputError(f"cannot open {name}: {_reason(error)}") from error
        if stat.S_ISDIR(status.st_mode) or os.isatty(self._fd):
            self.close()
            kind = "directory" if stat.S_ISDIR(status.st_mode) else "terminal"
            raise InputError(f"cannot read {name}: it is a {kind}")
        self._can_wait = not stat.S_ISREG(status.st_mode)
        self.total_bytes = None if self._can_wait else status.st_size
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def read_into(self, view: memoryview) -> int | None:
        if self._can_wait and not self._poll.poll(IDLE_MS):
            return None
        try:
            came = os.readv(self._fd, [view])
        except BlockingIOError:
            return None
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {_reason(error)}") from error
        self.read_bytes += came
        return came

    def close(self) -> None:
        if self._is_open:
            os.close(self._fd)
            self._is_open = False


class _Expander:
    """What a file holds, member after member; of each no more is expanded than is asked for."""

    def __init__(
        self, file: _File, first: bytes, kind: str, new_member: Any, errors: type[Exception]
    ) -> None:
        self._file = file
        self._kind = kind
        self._new_member = new_member
        self._errors = errors
        self._member: Any = None
        self._input = first
        self._buffer = memoryview(bytearray(_COMPRESSED_BYTES))
        self._began = False
        self.cut_short = False

    def read_into(self, view: memoryview) -> int | None:
        asked = False
        while True:
            try:
                out = self._expand(len(view))
            except self._errors as error:
                raise InputError(
                    f"cannot read {self._file.name}: corrupt {self._kind} data: {error}"
                ) from error
            if out:
                view[: len(out)] = out
                self._began = True
                return len(out)
            if self._input:
                continue
            # There can be any number of members without a byte: come back, so that whoever reads can stop.
            if asked:
                return None
            asked = True
            came = self._file.read_into(self._buffer)
            if came is None:
                return None
            if came == 0:
                self.cut_short = self._member is not None
                if self.cut_short and not self._began:
                    raise InputError(
                        f"cannot read {self._file.name}: its {self._kind} data ends before the first byte"
                    )
                return 0
            self._input = bytes(self._buffer[:came])

    def _expand(self, most_bytes: int) -> bytes:
        if self._member is None:
            # gzip files may be padded with zeros, as on tapes; no member of zstd begins with one.
            self._input = self._input.lstrip(b"\0")
            if not self._input:
                return b""
            self._member = self._new_member()
        out: bytes = self._member.decompress(self._input, most_bytes)
        self._input = getattr(self._member, "unconsumed_tail", b"")
        if self._member.eof:
            self._input = self._member.unused_data
            self._member = None
        return out


def _gzip_member() -> Any:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _reason(error: OSError) -> str:
    return (
        f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})" if error.errno else ""
    )

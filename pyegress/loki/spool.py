# SPDX-License-Identifier: MIT
"""Batches in a folder, one file each, until they are delivered; they outlive the program."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyegress.errors import OutputError
from pyegress.escape import display

_LOCK = ".lock"
_PART = ".part"
_NAME = re.compile(r"([0-9]{16})-([0-9]{1,9})\.json\.gz", re.ASCII)


class Spooled(NamedTuple):
    """A batch in a file."""

    name: str
    records: int
    size: int


class Spool:
    """At most `limit` bytes. A file is renamed into place when it is whole, so that kill -9 leaves no half one.

    There is no fsync: a power cut can cost the last seconds, and a file that it tore is known by its checksum.
    """

    def __init__(self, path: str, limit: int) -> None:
        """Make the folder if there is none; OutputError where it can't be used, or another program uses it."""
        self._path = path
        self._limit = limit
        self._folder = self._lock = -1
        try:
            Path(path).mkdir(mode=0o700, exist_ok=True)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._check_owner()
            self._lock = self._open(_LOCK, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(self._found())
        except (OSError, ValueError) as error:
            self.close()
            raise OutputError(f"loki: cannot use spool {display(path)}: {_reason(error)}") from error
        except OutputError:
            self.close()
            raise
        self.left = [Spooled(*entry[1:]) for entry in found]
        """What an earlier run left, oldest first."""
        self._bytes = sum(entry.size for entry in self.left)
        self._next = found[-1][0] + 1 if found else 1

    @property
    def name(self) -> str:
        """How messages call it."""
        return display(self._path)

    def put(self, body: bytes, records: int) -> Spooled | None:
        """Keep a batch; None where there is no room. Raises OSError."""
        if self._bytes + len(body) > self._limit:
            return None
        name = f"{self._next:016}-{records}.json.gz"
        fd = self._open(_PART, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            rest = memoryview(body)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
        os.rename(_PART, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._next += 1
        self._bytes += len(body)
        return Spooled(name, records, len(body))

    def read(self, entry: Spooled) -> bytes:
        """A batch; ValueError where the file is torn. Raises OSError."""
        fd = self._open(entry.name, os.O_RDONLY)
        with os.fdopen(fd, "rb") as file:
            body = file.read(entry.size + 1)
        try:
            whole = bool(gzip.decompress(body))
        except (EOFError, OSError, zlib.error):
            whole = False
        if not whole:
            raise ValueError("torn")
        return body

    def remove(self, entry: Spooled) -> None:
        """Forget a batch. Raises OSError."""
        os.unlink(entry.name, dir_fd=self._folder)
        self._bytes -= entry.size

    def close(self) -> None:
        """Let another program use it; what is in it stays."""
        for fd in (self._lock, self._folder):
            if fd >= 0:
                os.close(fd)
        self._folder = self._lock = -1

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._folder)

    def _check_owner(self) -> None:
        """What others can put there would be sent as ours."""
        seen = os.fstat(self._folder)
        if seen.st_uid != os.geteuid() or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OutputError(
                f"loki: cannot use spool {self.name}: others can write there; it must be owned by this user, mode 0700"
            )

    def _found(self) -> Iterator[tuple[int, str, int, int]]:
        for name in os.listdir(self._folder):  # noqa: PTH208
            if name == _PART:
                os.unlink(name, dir_fd=self._folder)
            elif match := _NAME.fullmatch(name):
                seen = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
                if stat.S_ISREG(seen.st_mode):
                    yield int(match[1]), name, int(match[2]), seen.st_size


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.EAGAIN, errno.EACCES) and isinstance(error, BlockingIOError):
            return "another pyegress uses it"
        return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"
    return display(str(error))

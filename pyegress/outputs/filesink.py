# SPDX-License-Identifier: MIT
"""Where outputs put their bytes: standard output, or a file that is appended to."""

import errno
import os
import select
import tempfile
from pathlib import Path

from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.plugin import Context, Output

_STDOUT = 1


class FileSink:
    """Unbuffered: what `write` has returned from is with the kernel, so there is nothing to lose at exit."""

    def __init__(self, path: str) -> None:
        """Open; "" and "-" are standard output."""
        self._path = "" if path == "-" else path
        self._fd = self._open() if self._path else _STDOUT

    @property
    def name(self) -> str:
        """How messages call it."""
        return display(self._path) if self._path else "standard output"

    def write(self, data: bytes) -> None:
        """Write all of it; BrokenPipeError when the reader has gone, OutputError for any other failure."""
        if self._fd < 0:
            raise OutputError(f"cannot write to {self.name}: it is closed")
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Standard output shares its O_NONBLOCK with whoever else holds the pipe or terminal.
                select.select([], [self._fd], [])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(f"cannot write to {self.name}: {_reason(error)}") from error

    def reopen(self) -> None:
        """Open the file anew by its name; the old one stays in use if that fails."""
        if self._path and self._fd >= 0:
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh

    def close(self) -> None:
        """Close the file; standard output is left open."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._path:
            try:
                os.close(fd)
            except OSError as error:
                raise OutputError(f"cannot close {self.name}: {_reason(error)}") from error

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY, 0o640)
        except (OSError, ValueError) as error:
            raise OutputError(f"cannot open {self.name}: {_reason(error)}") from error


class FileOutput(Output):
    """An output that writes text as connections come; it has nothing to flush, and its options have a `file`."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._sink: FileSink | None = None

    def open(self, context: Context) -> None:
        self._sink = FileSink(self._file)

    def put(self, lines: bytes) -> None:
        """Write whole lines."""
        if self._sink is None:
            raise OutputError(f"{self.name}: not open")
        self._sink.write(lines)

    def reopen(self) -> None:
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()


def replace_file(path: str, data: bytes) -> None:
    """Put a whole file in the place of what was there, readable by owner and group; never a part of one.

    What isn't a plain file, such as a FIFO or /dev/full, is written to. Raises OutputError.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        # In place of what a link points to, not of the link.
        target = target.resolve()
        written, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(written, "wb") as file:
                os.fchmod(file.fileno(), 0o640)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write to {display(path)}: {_reason(error)}") from error


def writable_folder(path: str) -> None:
    """Raise OutputError where no file could be made beside, or in place of, that one."""
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write to {display(path)}: it is a directory")
    folder = target.resolve().parent
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "no permission to write there" if folder.is_dir() else "no such directory"
        raise OutputError(f"cannot write to {display(path)}: {display(str(folder))}: {why}")


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"

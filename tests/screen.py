# SPDX-License-Identifier: MIT
"""A program on a terminal of its own, and what somebody who sits there sees."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import pyte
from pyte.modes import DECAWM

PATIENCE_S = 30
_ALTERNATE = 1049


class _Screen(pyte.Screen):
    """pyte's, with the alternate screen that it doesn't have."""

    in_alternate = False
    _before: Any = None

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        super().set_mode(*modes, **kwargs)
        if kwargs.get("private") and _ALTERNATE in modes and not self.in_alternate:
            self.in_alternate = True
            self._before = self.display, self.cursor.y
            self.erase_in_display(2)
            self.cursor_position()

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if kwargs.get("private") and _ALTERNATE in modes and self.in_alternate:
            self.in_alternate = False
            self.erase_in_display(2)
            lines, row = self._before
            for at, line in enumerate(lines[: self.lines]):
                self.cursor_position(at + 1, 1)
                self.draw(line.rstrip())
            self.cursor_position(row + 1, 1)


class OnTerminal:
    """A command with a terminal as its stdin, stdout, stderr and controlling terminal; killed after the block."""

    def __init__(
        self, *command: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self._screen = _Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.said = b""
        """All bytes that came."""
        self._set_size(columns, lines)
        self._keys_before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})},
        )

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self._ours, self._theirs):
            if fd >= 0:
                os.close(fd)

    @property
    def lines(self) -> list[str]:
        """What stands there now."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def in_picture(self) -> bool:
        """Whether it is the alternate screen."""
        return self._screen.in_alternate

    @property
    def is_restored(self) -> bool:
        """Whether screen, cursor, line wrap and keys are as a shell wants them."""
        return (
            not self.in_picture
            and not self._screen.cursor.hidden
            and DECAWM in self._screen.mode
            and self.has_its_keys
        )

    @property
    def has_its_keys(self) -> bool:
        """Whether keys do what they did."""
        return termios.tcgetattr(self._theirs) == self._keys_before

    def look(self) -> None:
        """Take what comes in a moment."""
        self._read(time.monotonic() + 0.05)

    def wait_for(self, wanted: Callable[[list[str]], bool] | str) -> list[str]:
        """The lines, once they hold a text or are as wanted."""
        holds = (lambda lines: any(wanted in line for line in lines)) if isinstance(wanted, str) else wanted
        until_s = time.monotonic() + PATIENCE_S
        while not holds(self.lines):
            assert self._read(until_s), "\n".join(self.lines)
        return self.lines

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self._theirs)
        os.close(self._ours)
        self._ours = self._theirs = -1

    def end(self) -> int:
        """Wait for the end of the program; its exit status."""
        until_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < until_s, "\n".join(self.lines)
            self.look()
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, until_s: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, until_s - time.monotonic()))
        if ready:
            data = os.read(self._ours, 1 << 16)
            self.said += data
            self._stream.feed(data)
        return bool(ready)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def pyegress(*arguments: str, **extra: Any) -> OnTerminal:
    """pyegress on a terminal."""
    return OnTerminal(sys.executable, "-m", "pyegress", *arguments, **extra)

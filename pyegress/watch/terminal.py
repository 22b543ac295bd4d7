# SPDX-License-Identifier: MIT
"""The terminal that standard output is: a picture in place of all else, keys, and everything as before at the end."""

from __future__ import annotations

import errno
import io
import os
import select
import termios
import time
from contextlib import suppress
from threading import Event
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

_STDIN, _STDOUT = 0, 1
_LOOK_S = 0.1
"""How soon a new size is noticed; a handler for SIGWINCH would have to be the main thread's."""
_USUAL_SIZE = os.terminal_size((80, 24))
# DECAWM. Terminals don't agree on how wide every sign is: a line that is too long must not become two.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_OFF = b"\0"
"""No key (_POSIX_VDISABLE)."""


class Terminal:
    """Taken from construction until `close`, with the alternate screen."""

    def __init__(self) -> None:
        # In UTF-8 whatever the locale is, as all outputs are.
        stream = io.TextIOWrapper(
            os.fdopen(os.dup(_STDOUT), "wb", 0), "utf-8", errors="replace", write_through=True
        )
        self._stream = stream
        self._console = Console(
            file=stream,
            force_terminal=True,
            force_interactive=True,
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._size = _size()
        self._attributes = _quiet_keys()
        try:
            self._live.start()
            stream.write(_NO_WRAP)
        except BaseException:
            self.restore_keys()
            raise

    @staticmethod
    def is_there() -> bool:
        """Whether standard output is a terminal that can be drawn on."""
        return os.isatty(_STDOUT) and not Console(force_terminal=True).is_dumb_terminal

    def draw(self, what: RenderableType) -> None:
        """Show it in place of what was there; raises OSError where the terminal has gone."""
        self._console.size = self._size
        self._live.update(what, refresh=True)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as `wait` last saw them."""
        return self._size

    def wait(self, closing: Event, until_s: float) -> bytes:
        """Wait for that monotonic time, another size, a key or the end; the keys that were pressed.

        Raises OSError where the terminal has gone.
        """
        keys = b""
        while not (keys or closing.is_set()) and (left_s := until_s - time.monotonic()) > 0:
            keys = self._keys(min(left_s, _LOOK_S))
            now = _size()
            if now != self._size:
                self._size = now
                break
        return keys

    def _keys(self, timeout_s: float) -> bytes:
        if self._attributes is None:
            time.sleep(timeout_s)
            return b""
        if not select.select([_STDIN], [], [], timeout_s)[0]:
            return b""
        keys = os.read(_STDIN, 64)
        if not keys:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return keys

    def close(self) -> None:
        """Give it back as it was."""
        try:
            self._stream.write(_WRAP)
            self._live.stop()
        finally:
            self.restore_keys()

    def restore_keys(self) -> None:
        """The part of it that writes nothing, for a terminal that takes nothing."""
        if self._attributes is not None:
            with suppress(termios.error):
                termios.tcsetattr(_STDIN, termios.TCSANOW, self._attributes)

    def leave(self, what: RenderableType) -> None:
        """Print something that stays, after `close`."""
        self._console.print(what)


def _size() -> os.terminal_size:
    """Columns and lines now; some serial lines don't know."""
    now = os.get_terminal_size(_STDOUT)
    return now if now.columns and now.lines else _USUAL_SIZE


def _quiet_keys() -> list[Any] | None:
    """Show no keys that are pressed, and give each at once; the settings before, None where stdin is no terminal.

    ctrl-c stays what it was. What would stop or kill the program and leave the picture on the screen does nothing.
    """
    try:
        before = termios.tcgetattr(_STDIN)
    except termios.error:
        return None
    quiet = [*before[:6], [*before[6]]]
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    quiet[6][termios.VSUSP] = quiet[6][termios.VQUIT] = _OFF
    termios.tcsetattr(_STDIN, termios.TCSANOW, quiet)
    return before

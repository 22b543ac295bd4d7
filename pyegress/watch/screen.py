# SPDX-License-Identifier: MIT
"""Draws what was counted, again and again, in a thread of its own, so that a slow terminal holds up nothing."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from threading import Event, Thread

from rich.console import Group

from pyegress.escape import display
from pyegress.options import duration_text
from pyegress.plugin import Context
from pyegress.watch.picture import NEW, About, picture
from pyegress.watch.tally import WINDOW_S, By, Sort, Tally
from pyegress.watch.terminal import Terminal

MESSAGES = 2
"""The last ones that are shown."""
PATIENCE_S = 2
"""For a terminal that takes nothing, at the end."""
QUIT = b"q"


class Screen:
    """The painter of the table output."""

    def __init__(
        self, tally: Tally, context: Context, *, by: By, sort: Sort, new_ns: int, interval_ns: int
    ) -> None:
        self.error: Exception | None = None
        """Why it has ended by itself."""
        self._tally = tally
        self._context = context
        self._by: By = by
        self._sort: Sort = sort
        self._new_ns = new_ns
        self._interval_s = interval_ns / 1e9
        self._inputs: list[str] = []
        self._messages: deque[str] = deque(maxlen=MESSAGES)
        self._closing = Event()
        self._terminal: Terminal | None = None
        self._thread = Thread(target=self._run, name="table", daemon=True)

    def start(self) -> None:
        """Take the terminal."""
        self._terminal = Terminal()
        self._thread.start()

    def say(self, text: str) -> None:
        """Show a message below the rows, until others follow."""
        self._messages.append(f"{time.strftime('%H:%M:%S')} {text}")

    def restore(self) -> None:
        """Give the terminal back, with the last picture above what follows."""
        terminal, self._terminal = self._terminal, None
        if terminal is None:
            return
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            terminal.restore_keys()
            return
        with suppress(OSError):  # where it has gone there is nothing to restore
            terminal.close()
            self._messages.clear()
            if self._tally.connections:
                terminal.leave(self._picture(terminal.size, to_stay=True))

    def _run(self) -> None:
        terminal = self._terminal
        try:
            while terminal and not self._closing.is_set():
                began_s = time.monotonic()
                terminal.draw(self._picture(terminal.size))
                if QUIT in terminal.wait(self._closing, began_s + self._interval_s):
                    self._context.stop()
        except Exception as error:
            self.error = error
            self._context.stop()

    def _picture(self, size: tuple[int, int], *, to_stay: bool = False) -> Group:
        self._context.refresh()
        # The last picture comes when they have ended.
        self._inputs = [
            f"{display(name)} ({display(hooks)})" if hooks else display(name)
            for name, hooks in self._context.inputs().items()
        ] or self._inputs
        hint = (
            f"{NEW} first seen in the last {duration_text(self._new_ns)}; RATE: a second, over {WINDOW_S} s"
        )
        about = About(
            self._inputs,
            self._context.losses.snapshot(),
            [] if to_stay else list(self._messages),
            hint if to_stay else f"{hint}; q ends",
        )
        view = self._tally.view(self._sort, size[1], time.monotonic_ns(), self._new_ns)
        return picture(view, self._by, about, size, fill=not to_stay)

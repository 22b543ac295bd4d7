# SPDX-License-Identifier: MIT
"""Who draws on the terminal, and what becomes of messages meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import RLock

from pyegress.plugin import Painter

HELD = 1000
"""Messages that are kept for the end; what is older was on the screen."""


class Stage:
    """Free, or held by one painter; for any thread. It is free again after a `with` block.

    Messages go to the painter, and once more to `say` when the terminal is free, or at once where `is_shown` says that
    they don't appear on it.
    """

    def __init__(self, say: Callable[[str], None], is_shown: Callable[[], bool]) -> None:
        self._say = say
        self._is_shown = is_shown
        self._lock = RLock()
        self._painter: Painter | None = None
        self._held: deque[str] = deque(maxlen=HELD)
        self._dropped = 0

    def occupy(self, painter: Painter | None) -> None:
        """Hand it over; None frees it."""
        with self._lock:
            before, self._painter = self._painter, painter
            try:
                if before is not None:
                    before.restore()
            finally:
                if painter is None:
                    self._say_held()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.occupy(None)

    def takes(self, text: str) -> bool:
        """Whether a message is taken care of."""
        with self._lock:
            if self._painter is None:
                return False
            self._painter.say(text)
            if not self._is_shown():
                return False
            self._dropped += len(self._held) == HELD
            self._held.append(text)
            return True

    def _say_held(self) -> None:
        if self._dropped:
            self._say(f"{self._dropped} messages before these were only shown in the table")
        for text in self._held:
            self._say(text)
        self._held.clear()
        self._dropped = 0

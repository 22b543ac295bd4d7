# SPDX-License-Identifier: MIT
"""A progress bar on stderr, for what takes long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

BAR_AFTER_S = 1.0


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it."""
    return stream is not None and not stream.closed and stream.isatty()


class Bar:
    """There is one, and `show` is for one thread."""

    erase: ClassVar[str] = ""
    """What has to come before other text on stderr: the bar is drawn anew below that.

    rich would do it for those who write to sys.stderr, which click goes round where the locale is not UTF-8.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._due = time.monotonic() + BAR_AFTER_S
        self._progress: Progress | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._end()

    def show(self, done: int, total: int | None) -> None:
        """Say how much is done; after all of it the bar is gone."""
        if total is not None and done >= total:
            self._end()
            return
        if self._progress is None:
            if not self._wanted or time.monotonic() < self._due:
                return
            self._begin(total)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def _begin(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._wanted = not console.is_dumb_terminal
        if self._wanted:
            self._progress = Progress(
                console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._progress.add_task("reading", total=total)
            self._progress.start()
            Bar.erase = "\r\x1b[2K"

    def _end(self) -> None:
        self._wanted = False
        if self._progress is not None:
            Bar.erase = ""
            self._progress.stop()
            self._progress = None

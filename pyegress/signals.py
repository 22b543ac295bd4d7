# SPDX-License-Identifier: MIT
"""Signals as calls in a thread of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread


@contextmanager
def watched(actions: Mapping[int, Callable[[], None]]) -> Iterator[None]:
    """Within the block each of these signals is a call, one after the other.

    A Python handler runs once the main thread gets around to it; a signal that another thread took, or that
    came just before the main thread began to wait, would stay unheard. The wakeup descriptor has no such gap.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)

    def watch() -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                actions.get(number, lambda: None)()

    watcher = Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    wakeup_before = signal.set_wakeup_fd(writing)
    before = {number: signal.signal(number, lambda *_: None) for number in actions}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(wakeup_before)
        os.close(writing)
        watcher.join()
        os.close(reading)

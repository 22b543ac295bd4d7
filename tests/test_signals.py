# SPDX-License-Identifier: MIT
"""Signals as calls."""

from __future__ import annotations

import os
import signal
from queue import SimpleQueue

from pyegress.signals import watched


def test_each_signal_calls_its_action_and_handlers_come_back() -> None:
    """In another thread, at once; after the block nothing is left."""
    calls: SimpleQueue[str] = SimpleQueue()
    before = signal.getsignal(signal.SIGUSR1)
    with watched({signal.SIGUSR1: lambda: calls.put("one"), signal.SIGHUP: lambda: calls.put("two")}):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert calls.get(timeout=30) == "one"
        os.kill(os.getpid(), signal.SIGHUP)
        assert calls.get(timeout=30) == "two"
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.set_wakeup_fd(-1) == -1

# SPDX-License-Identifier: MIT
"""The progress bar, among messages."""

from __future__ import annotations

import os
import sys

import pytest

from pyegress import progressbar
from pyegress.messages import say
from pyegress.progressbar import Bar


def test_bar_stands_below_all_other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said takes its place, and when all is done it is gone."""
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(progressbar, "BAR_AFTER_S", 0)
        bar = Bar(wanted=True)
        bar.show(1, 10)
        say("in between")
        bar.show(10, 10)
        say("behind")
        bar.show(11, None)
        read = b""
        while not read.endswith(b"behind\r\n"):
            read += os.read(reading, 1 << 16)
    os.close(reading)
    said = read.decode()
    assert "reading" in said
    assert "\r\x1b[2Kpyegress: in between" in said
    assert said.endswith("\x1b[2Kpyegress: behind\r\n")

# SPDX-License-Identifier: MIT
"""What SIGINT does, by who had it before."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from pyegress import interrupts
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupts.end_quietly()
if sys.argv[2] == "again":
    interrupts.raise_again()
try:
    os.kill(os.getpid(), signal.SIGINT)
    print("lives")
except KeyboardInterrupt:
    print("raised")
"""


@pytest.mark.parametrize(
    ("before", "after", "said", "code"),
    [
        ("as started", "", "", -signal.SIGINT),
        ("as started", "again", "raised\n", 0),
        ("ignored", "", "lives\n", 0),
        ("ignored", "again", "lives\n", 0),
    ],
)
def test_a_signal(before: str, after: str, said: str, code: int) -> None:
    """Ends at once without a word, raises, or is ignored as whoever started this wants."""
    words = [sys.executable, "-c", SCRIPT, before, after]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (said, "", code)

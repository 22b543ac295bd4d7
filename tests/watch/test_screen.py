# SPDX-License-Identifier: MIT
"""The thread that draws: what a slow or broken terminal, or a mistake in the picture, comes to."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.screen import OnTerminal

ROOT = Path(__file__).resolve().parents[2]
SETUP = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from threading import Event
from pyegress.losses import Losses
from pyegress.plugin import Context
from pyegress.record import Connection
from pyegress.watch import screen
from pyegress.watch.tally import Tally
asked = Event()
tally = Tally("both", 100, time.monotonic_ns())
shown = Context(Losses(), print, print, inputs=lambda: {{"ebpf": "fentry", "pcap": ""}}, stop=asked.set)
def made(interval_ns=10**8):
    painter = screen.Screen(tally, shown, by="both", sort="rate", new_ns=9 * 10**9, interval_ns=interval_ns)
    painter.start()
    return painter
"""


def program(code: str) -> OnTerminal:
    """Code with a terminal."""
    return OnTerminal(sys.executable, "-c", SETUP + code)


def test_inputs_messages_and_losses_as_they_are() -> None:
    """The last messages with their time; counters that the kernel keeps are asked for."""
    code = """
shown.losses.put("lost", "ring full", 7)
painter = made()
for number in range(5): painter.say(f"message {number}")
asked.wait()
painter.restore()
painter.restore()
"""
    with program(code) as screen:
        lines = screen.wait_for("message 4")
        assert re.match(r"pyegress 0:00:0\d  ebpf \(fentry\), pcap  0 connections", lines[0])
        assert [re.sub(r"\d\d:\d\d:\d\d", "T", line) for line in lines[-4:-1]] == [
            "lost: 7 ring full",
            "T message 3",
            "T message 4",
        ]
        screen.type(b"xq")
        assert screen.end() == 0
        assert screen.is_restored
        assert not any(screen.lines), "a table of nothing stays behind"


def test_mistake_in_the_picture_ends_the_run() -> None:
    """It is kept for who asks, and the terminal is restored."""
    code = """
def broken(*words, **more): raise ZeroDivisionError
screen.picture = broken
painter = made()
asked.wait()
painter.restore()
print(type(painter.error).__name__)
"""
    with program(code) as screen:
        assert screen.end() == 0
        assert screen.lines[0] == "ZeroDivisionError"
        assert screen.is_restored


def test_terminal_that_takes_nothing_holds_up_nothing() -> None:
    """Connections are counted on, and at the end the keys are restored without it."""
    code = """
import os, termios
screen.PATIENCE_S = 0.2
painter = made()
os.read(0, 1)
termios.tcflow(1, termios.TCOOFF)
for number in range(30_000): tally.add([Connection(1, "x", "tcp", 4, f"192.0.2.{number % 50}", number % 50)], 10**18)
time.sleep(0.5)
painter.restore()
left = painter._thread.is_alive()
termios.tcflow(1, termios.TCOON)
os._exit(0 if left and tally.connections == 30_000 else 9)
"""
    with program(code) as screen:
        screen.wait_for("pyegress 0:00")
        screen.type(b".")
        assert screen.end() == 0
        assert screen.has_its_keys


def test_hidden_picture_stays_up_to_date_with_the_kernel() -> None:
    """`refresh` is called before each picture."""
    code = """
shown = Context(Losses(), print, print, stop=asked.set, refresh=lambda: shown.losses.add("lost", "x"))
painter = made()
asked.wait()
painter.restore()
"""
    with program(code) as screen:
        screen.wait_for("lost: 3 x")
        screen.type(b"q")
        assert screen.end() == 0

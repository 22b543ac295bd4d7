# SPDX-License-Identifier: MIT
"""What the user sees of it: the question, the answer, and whatever else means no."""

from __future__ import annotations

import os
import select
import signal
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pyegress.apply import watchdog
from pyegress.apply.part import Part
from pyegress.apply.watchdog import BACK, FAILED, KEEP, KEPT, LOADED, Watchdog
from pyegress.errors import EgressError

Say = Callable[[str], None]

_ANSWER_BYTES = 4096
_MESSAGE_BYTES = 4096
_MEANINGS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "the terminal or connection is gone",
    signal.SIGQUIT: "SIGQUIT",
}
"""Signals that mean no."""


def applied(parts: Sequence[Part], seconds: int, start: Callable[[], Watchdog], say: Say) -> bool:
    """Whether the rules were kept; with no seconds they are at once. Only the watchdog decides."""
    with _signals() as signals:
        dog = start()
        try:
            return _Conversation(parts, seconds, dog, signals, say).outcome()
        finally:
            dog.control.close()
            # Only after its end is the next `apply` let in.
            with suppress(ChildProcessError):
                os.waitpid(dog.pid, 0)


class _Conversation:
    def __init__(self, parts: Sequence[Part], seconds: int, dog: Watchdog, signals: int, say: Say) -> None:
        self._parts = parts
        self._seconds = seconds
        self._control = dog.control
        self._signals = signals
        self._say = say
        self._is_answered = False
        self._line = b""
        self._stdin = 0
        self._poll = select.poll()
        for fd in (dog.control.fileno(), signals):
            self._poll.register(fd, select.POLLIN)

    def outcome(self) -> bool:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._signals:
                    number = os.read(self._signals, 1)[0]
                    self._answer(BACK + _MEANINGS[signal.Signals(number)].encode())
                elif fd == self._stdin:
                    self._read()
                else:
                    outcome = self._heard(self._message())
                    if outcome is not None:
                        return outcome

    def _message(self) -> bytes:
        try:
            return self._control.recv(_MESSAGE_BYTES)
        except OSError:
            return b""

    def _heard(self, message: bytes) -> bool | None:
        """What the watchdog says; None while nothing is decided."""
        if message == LOADED:
            self._loaded()
            return None
        if message == KEPT:
            self._say("kept" if self._seconds else "loaded for good")
            return True
        if message.startswith(BACK):
            self._say(f"taken back: {_text(message, BACK)}")
        elif message.startswith(FAILED):
            raise EgressError(_text(message, FAILED))
        else:
            said, fine = watchdog.taken_back(self._parts)
            self._say(f"{'taken back' if fine else 'failed'}: the watchdog was killed; {said}")
        return False

    def _loaded(self) -> None:
        for part in self._parts:
            with suppress(EgressError, ValueError):
                self._say(f"loaded {part.what}: {part.size()}")
        if not self._seconds:
            self._answer(KEEP)
            return
        if not self._is_answered:
            _forget_typed()
            self._poll.register(self._stdin, select.POLLIN)
        self._say(
            f"type yes and Enter within {self._seconds} s to keep these rules, no to take them back now"
        )
        self._say("or run pyegress apply --keep in a new connection, which proves that you still get in")

    def _read(self) -> None:
        try:
            data = os.read(self._stdin, _ANSWER_BYTES)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(self._stdin)
            # Without a terminal there may never have been anybody to answer here.
            if _is_terminal():
                self._answer(BACK + b"the terminal is at its end")
            return
        *lines, self._line = (self._line[-_ANSWER_BYTES:] + data).split(b"\n")
        for line in lines:
            if self._is_answered:
                return
            word = line.strip().lower()
            if word == b"yes":
                self._answer(KEEP)
            elif word == b"no":
                self._answer(BACK + b"you said no")
            else:
                self._say("not understood; type yes to keep the rules, no to take them back now")

    def _answer(self, word: bytes) -> None:
        """The first counts; what becomes of it, the watchdog says."""
        if not self._is_answered:
            self._is_answered = True
            with suppress(OSError):
                self._control.send(word)


def _text(message: bytes, word: bytes) -> str:
    return message[len(word) :].decode("utf-8", "replace")


def _is_terminal() -> bool:
    return os.isatty(0)


def _forget_typed() -> None:
    """What was typed before the question is no answer to it; a pipe's content is."""
    if _is_terminal():
        with suppress(termios.error):
            termios.tcflush(0, termios.TCIFLUSH)


@contextmanager
def _signals() -> Iterator[int]:
    """Those that mean no, as bytes from a descriptor."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in _MEANINGS}
    try:
        yield reading
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(wakeup_before)
        os.close(reading)
        os.close(writing)

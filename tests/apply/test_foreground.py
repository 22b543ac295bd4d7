# SPDX-License-Identifier: MIT
"""What the watchdog's words become; the rest is in tests/test_apply_command.py, with a real one."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from pyegress.apply import foreground
from pyegress.apply.watchdog import Watchdog
from pyegress.errors import EgressError
from tests.applying import FakePart


class Run:
    """One conversation, for which all that the watchdog says is said before it begins."""

    def __init__(self, *messages: bytes, seconds: int = 0) -> None:
        self.said: list[str] = []
        self.part = FakePart()
        self._messages = messages
        self._seconds = seconds
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def kept(self) -> bool:
        """How it ends; its signals are as before then."""
        before = signal.getsignal(signal.SIGINT)
        for message in self._messages:
            self.theirs.send(message)
        self.theirs.shutdown(socket.SHUT_WR)
        # Not a child of ours, so there is nothing to wait for.
        dog = Watchdog(os.getpid(), self.ours)
        try:
            return foreground.applied([self.part], self._seconds, lambda: dog, self.said.append)
        finally:
            assert signal.getsignal(signal.SIGINT) == before
            self.theirs.close()


def test_kept_only_when_the_watchdog_says_so() -> None:
    """Not when the word is sent."""
    run = Run(b"loaded", b"kept")
    assert run.kept()
    assert run.said == ["loaded fake: 1 rule", "loaded for good"]
    run = Run(b"loaded", b"back no answer within 1 s; fake as before")
    assert not run.kept()
    assert run.said[-1] == "taken back: no answer within 1 s; fake as before"


def test_failure_is_an_error() -> None:
    """The watchdog's words, as one line."""
    with pytest.raises(EgressError, match="^nft: no; taken back: fake as before$"):
        Run(b"failed nft: no; taken back: fake as before").kept()


@pytest.mark.parametrize("messages", [(), (b"loaded",)], ids=["loading", "loaded"])
def test_watchdog_that_ends_without_a_word(messages: tuple[bytes, ...]) -> None:
    """Then it is done here."""
    run = Run(*messages)
    assert not run.kept()
    assert run.part.done == ["take back"]
    assert run.said[-1] == "taken back: the watchdog was killed; fake as before"

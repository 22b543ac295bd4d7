# SPDX-License-Identifier: MIT
"""Taking back when that isn't easy; the rest is in tests/test_apply_command.py, with real rules."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pyegress.apply import meeting, watchdog
from pyegress.apply.watchdog import _Wait
from tests.applying import FakePart


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that would have been made."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_last_first() -> None:
    """In the order opposite to loading."""
    one, two = FakePart("one"), FakePart("two")
    assert watchdog.taken_back([one, two]) == ("two as before, one as before", True)


def test_it_is_tried_again(pauses: list[float]) -> None:
    """Somebody else may have held the lock."""
    part = FakePart(failures=4)
    assert watchdog.taken_back([part]) == ("fake as before", True)
    assert pauses == [1] * 4


def test_what_cant_be_put_back_is_removed() -> None:
    """Open is better than rules that nobody has confirmed."""
    part = FakePart(failures=99)
    said, fine = watchdog.taken_back([part])
    assert part.done[-1] == "remove"
    assert (said, fine) == (
        "fake removed, because it could not be put back as it was before (busy)",
        True,
    )


def test_one_that_fails_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tried, and the failure is said."""

    def fails(_: FakePart) -> str:
        raise RuntimeError("gone\n")

    one, two = FakePart("one"), FakePart("two", failures=99)
    monkeypatch.setattr(FakePart, "remove", fails)
    said, fine = watchdog.taken_back([one, two])
    assert said == "two could NOT be taken back (RuntimeError: gone\\n), one as before"
    assert not fine


class Sides:
    """A wait, and all that can end it."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET
        self.foreground, self._control = socket.socketpair(socket.AF_UNIX, kind)
        self._terminated, self.signal = socket.socketpair(socket.AF_UNIX, kind)
        self._listener = socket.socket(socket.AF_UNIX, kind)
        self._listener.bind("")
        self._listener.listen()
        self.wait = _Wait(self._control, self._listener, self._terminated.fileno())
        self._clients: list[socket.socket] = []

    def client(self) -> socket.socket:
        """Another session that connects."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(self._listener.getsockname())
        self._clients.append(client)
        return client

    def close(self) -> None:
        """All of them."""
        for each in (self.foreground, self._control, self._terminated, self.signal, self._listener):
            each.close()
        for each in self._clients:
            each.close()
        self.wait.close()


@pytest.fixture
def sides() -> Iterator[Sides]:
    """Closed at the end."""
    made = Sides()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("word", "outcome"), [(b"keep", None), (b"back you said no", "you said no"), (b"back", "back")]
)
def test_word_of_the_foreground(sides: Sides, word: bytes, outcome: str | None) -> None:
    """It keeps only if it says so."""
    sides.foreground.send(word)
    assert sides.wait.outcome(1000) == outcome


def test_end_of_the_foreground(sides: Sides) -> None:
    """Without a word."""
    sides.foreground.close()
    assert sides.wait.outcome(1000) == "pyegress was killed"


def test_sigterm(sides: Sides) -> None:
    """As a descriptor."""
    sides.signal.send(b"\x0f")
    assert sides.wait.outcome(1000) == "SIGTERM"


def test_time(sides: Sides) -> None:
    """Clients that say nothing don't stop it."""
    sides.client()
    assert sides.wait.outcome(1) == "no answer within 1 s"


def test_other_session(sides: Sides) -> None:
    """Those that say something else, or nothing, don't count, and get no answer."""
    silent, wrong, right = sides.client(), sides.client(), sides.client()
    wrong.send(b"kep")
    right.send(b"keep")
    assert sides.wait.outcome(1000) is None
    sides.wait.answer()
    assert right.recv(64) == b"kept"
    assert wrong.recv(64) == b""
    silent.close()


def test_strangers_are_not_heard(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's session may connect, and that is all."""
    monkeypatch.setattr(meeting, "is_trusted", lambda _: False)
    sides.client().send(b"keep")
    assert sides.wait.outcome(1) == "no answer within 1 s"

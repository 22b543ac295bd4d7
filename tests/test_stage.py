# SPDX-License-Identifier: MIT
"""Where messages go while somebody draws on the terminal."""

from __future__ import annotations

import pytest

from pyegress import stage
from pyegress.stage import Stage


class Painter:
    """Notes what it is told, in one list with what is said."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(f"shown {text}")

    def restore(self) -> None:
        self._said.append("restored")


def test_free_stage_takes_nothing() -> None:
    """Messages are for stderr, as before."""
    assert not Stage(print, lambda: True).takes("a")


def test_messages_are_shown_and_said_when_the_terminal_is_free() -> None:
    """In their order, after it is restored; that happens once."""
    said: list[str] = []
    with Stage(said.append, lambda: True) as held:
        held.occupy(Painter(said))
        assert held.takes("a") and held.takes("b")
        held.occupy(None)
        assert not held.takes("c")
    assert said == ["shown a", "shown b", "restored", "a", "b"]


def test_stderr_elsewhere_gets_messages_at_once() -> None:
    """The painter shows them besides."""
    said: list[str] = []
    held = Stage(said.append, lambda: False)
    held.occupy(Painter(said))
    assert not held.takes("a")
    held.occupy(None)
    assert said == ["shown a", "restored"]


def test_block_that_fails_restores() -> None:
    """Whatever it was."""
    said: list[str] = []
    with pytest.raises(KeyError), Stage(said.append, lambda: True) as held:
        held.occupy(Painter(said))
        held.takes("a")
        raise KeyError
    assert said == ["shown a", "restored", "a"]


def test_flood_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones are kept."""
    monkeypatch.setattr(stage, "HELD", 2)
    said: list[str] = []
    held = Stage(said.append, lambda: True)
    held.occupy(Painter([]))
    assert all(held.takes(text) for text in "abcde")
    held.occupy(None)
    assert said == ["3 messages before these were only shown in the table", "d", "e"]

# SPDX-License-Identifier: MIT
"""The first input that can be used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyegress.errors import UnsupportedError
from pyegress.fallback import Fallback
from pyegress.losses import Losses
from pyegress.plugin import Batch, Context, Input, Options
from pyegress.privileges import LOOKING, Capability


class Fake(Input):
    """Works or not."""

    summary = "fake"
    Options = Options

    def __init__(self, name: str, works: bool) -> None:
        self.name = name  # type: ignore[misc]
        self.works = works
        self.calls: list[str] = []

    def open(self, context: Context) -> None:
        self.calls.append("open")
        if not self.works:
            raise UnsupportedError(f"{self.name}: EPERM; run as root")

    def read(self) -> Iterator[Batch]:
        self.calls.append("read")
        yield ()

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


def opened(*inputs: Fake) -> tuple[Fallback, list[str]]:
    """With what it said."""
    said: list[str] = []
    fallback = Fallback(*inputs)
    fallback.open(Context(Losses(), said.append, lambda text: None))
    return fallback, said


def test_best_is_used() -> None:
    """The others are left alone."""
    one, two = Fake("one", True), Fake("two", True)
    fallback, said = opened(one, two)
    assert said == ["no input named: one is the best that works here"]
    assert (fallback.name, two.calls) == ("one", [])


def test_next_is_used_and_the_reason_said() -> None:
    """All goes to the one in use."""
    one, two = Fake("one", False), Fake("two", True)
    fallback, said = opened(one, two)
    assert said == ["no input named: two is the best that works here, because one: EPERM; run as root"]
    assert list(fallback.read()) == [()]
    fallback.stop()
    fallback.close()
    assert (fallback.name, one.calls) == ("two", ["open", "close"])
    assert two.calls == ["open", "read", "stop", "close"]


def test_none_works() -> None:
    """What the best one says is what there is to do."""
    with pytest.raises(UnsupportedError, match="^one: EPERM"):
        opened(Fake("one", False), Fake("two", False))


def test_rights_are_those_of_the_one_in_use() -> None:
    """Those that all threads keep are told before it is known which that is."""
    one, two = Fake("one", False), Fake("two", True)
    one.shared = frozenset({Capability.BPF})
    two.capabilities = LOOKING
    assert Fallback(one, two).shared == {Capability.BPF}
    fallback, _ = opened(one, two)
    assert fallback.capabilities == LOOKING

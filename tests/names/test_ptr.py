# SPDX-License-Identifier: MIT
"""Reverse look-ups: never waited for, kept, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from threading import enumerate as enumerate_threads

import dns.resolver

from pyegress.names.ptr import QUEUED, Reverse
from tests.names.resolving import SERVER, needs_resolver, resolver, resolving

PATIENCE_S = 30


def await_(done: Callable[[], bool]) -> None:
    """Until it is so."""
    give_up = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@needs_resolver
def test_names_come_later() -> None:
    """The first time there is none; what has no name is not asked again at once."""
    with resolving():
        reverse = Reverse(resolver(SERVER), per_second=1000)
        try:
            assert reverse.names("198.18.1.1") == ((), 0.0)
            await_(lambda: reverse.names("198.18.1.1")[0] == ("one.example",))
            assert reverse.names("2001:db8::21")[0] == ()
            await_(lambda: reverse.names("2001:db8::21")[0] == ("edge.cdn.example",))
        finally:
            reverse.close()


class _Stuck(dns.resolver.Resolver):
    """Answers nobody until it is told to."""

    def __init__(self) -> None:
        super().__init__(configure=False)
        self.asked = 0
        self.go = Event()

    def resolve(self, *_: object, **__: object) -> dns.resolver.Answer:
        self.asked += 1
        self.go.wait(PATIENCE_S)
        raise dns.resolver.NoAnswer


def test_nothing_waits_for_a_resolver_that_hangs() -> None:
    """What there is no room for is counted, and an address is asked for once."""
    stuck = _Stuck()
    reverse = Reverse(stuck, per_second=1e9)
    try:
        assert reverse.names("192.0.2.0") == ((), 0.0)
        await_(lambda: stuck.asked == 1)
        for number in range(QUEUED + 5):
            assert reverse.names(f"198.18.{number >> 8}.{number & 255}")[0] == ()
        assert reverse.dropped == 5
        stuck.go.set()
        await_(lambda: stuck.asked == QUEUED + 1)
        reverse.names("192.0.2.0")
        assert (stuck.asked, reverse.dropped) == (QUEUED + 1, 5)
    finally:
        reverse.close()


def test_close_ends_the_thread() -> None:
    """If there is one: nobody may have asked."""
    Reverse().close()
    before = set(enumerate_threads())
    stuck = _Stuck()
    reverse = Reverse(stuck)
    reverse.names("192.0.2.1")
    stuck.go.set()
    reverse.close()
    assert set(enumerate_threads()) == before

# SPDX-License-Identifier: MIT
"""The observer: what waits for its process holds nothing up, and nothing is left when it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyegress import observer
from pyegress.attribute.searcher import Searcher
from pyegress.decode.packet import ACK
from pyegress.filters import FilterOptions
from pyegress.losses import Losses
from pyegress.observer import Observer
from pyegress.packets import Sighting
from pyegress.plugin import Batch, Context
from tests.attribute.test_searcher import PATIENCE, FakeLookup
from tests.test_packets import packet, sighting

QUICK_PORT, SLOW_PORT = 1, 2


class Watch:
    """An observer of what is `sent`, whose look-ups are those of a FakeLookup."""

    def __init__(self, lookup: FakeLookup) -> None:
        self.lookup = lookup
        self.losses = Losses()
        self.notices: list[str] = []
        self.stopping = False
        self.sent: list[Sighting] = []
        context = Context(losses=self.losses, notice=self.notices.append, debug=lambda text: None)
        self.observer = Observer("nflog", FilterOptions(), context)
        self._reading, self._writing = os.pipe()
        self.batches: Iterator[Batch] = self.observer.batches(
            self._reading, self._receive, lambda: self.stopping
        )

    def send(self, *sightings: Sighting) -> None:
        """Let these come."""
        self.sent += sightings
        os.write(self._writing, b".")

    def ports(self) -> list[int | None]:
        """Source ports of the next records."""
        while not (batch := next(self.batches)):
            pass
        return [connection.src_port for connection in batch]

    def close(self) -> None:
        """End it."""
        self.observer.close()
        os.close(self._reading)
        os.close(self._writing)

    def _receive(self) -> int:
        if self.sent:
            os.read(self._reading, 1)
        for each in self.sent:
            self.observer.see(each)
        self.sent.clear()
        return time.monotonic_ns()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Nothing was sent yet, and searches wait."""
    lookup = FakeLookup()

    def opened(hook: str, context: Context) -> Searcher[Any]:
        return Searcher(lookup, lambda error: None)  # type: ignore[arg-type]

    monkeypatch.setattr(observer, "open_searcher", opened)
    made = Watch(lookup)
    yield made
    lookup.gate.set()
    made.close()


def test_quick_ones_pass_those_that_wait(watch: Watch) -> None:
    """A process that must be searched for delays its own record alone."""
    watch.send(sighting(packet(sport=SLOW_PORT)), sighting(packet(sport=QUICK_PORT)))
    assert watch.ports() == [QUICK_PORT]
    assert watch.lookup.searching.wait(PATIENCE)
    watch.lookup.gate.set()
    assert watch.ports() == [SLOW_PORT]


def test_what_came_before_the_stop_is_reported(watch: Watch) -> None:
    """Also what is still searched for, and the rest of a flow."""
    watch.lookup.gate.set()
    watch.send(
        sighting(packet(sport=SLOW_PORT)),
        *(sighting(packet(sport=QUICK_PORT, protocol=17), at) for at in (1, 1.001)),
    )
    watch.stopping = True
    found = [connection for batch in watch.batches for connection in batch]
    assert sorted((c.src_port or 0, c.protocol, c.count) for c in found) == [
        (QUICK_PORT, "udp", 1),
        (QUICK_PORT, "udp", 1),
        (SLOW_PORT, "tcp", 1),
    ]


def test_a_search_that_never_ends_is_said(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end waits for a time, then counts what it gives up."""
    monkeypatch.setattr(observer, "LAST_ANSWERS_NS", 0)
    watch.send(sighting(packet(sport=SLOW_PORT)))
    watch.stopping = True
    assert [connection for batch in watch.batches for connection in batch] == []
    assert watch.losses.lines() == ["lost: 1 nflog: processes were still looked for at the end"]


def test_packets_that_open_nothing_are_counted(watch: Watch) -> None:
    """They ask for no process."""
    watch.observer.see(sighting(packet(sport=SLOW_PORT, flags=ACK)))
    watch.observer.put_losses()
    assert watch.losses.lines() == ["skipped: 1 nflog: TCP packets that open no connection"]
    assert not watch.lookup.searching.is_set()

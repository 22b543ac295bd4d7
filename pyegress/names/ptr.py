# SPDX-License-Identifier: MIT
"""Reverse look-ups, by one thread of their own: nothing waits for them, so the first connection stays without."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from contextlib import suppress
from ipaddress import ip_address
from queue import Empty, Full, Queue
from threading import Event, Thread

import dns.exception
import dns.resolver
import dns.reversename

from pyegress.names.message import text_of
from pyegress.ownports import reserve

QUEUED = 256
PER_SECOND = 10
"""Look-ups at most, on average; so many may come at once."""
KEPT = 8192
KEPT_S = 3600.0
FAILED_S = 300.0
"""How long it is believed that an address has no name."""
WITHIN_S = 4.0
MOST_NAMES = 4
_IDLE_S = 0.2


class Reverse:
    """`names` may be called from one thread; `close` ends the other."""

    def __init__(self, resolver: dns.resolver.Resolver | None = None, per_second: float = PER_SECOND) -> None:
        self.dropped = 0
        """Addresses that were not looked up because too many waited."""
        self._resolver = resolver
        self._pause_s = 1 / per_second
        self._known: OrderedDict[str, tuple[float, float, tuple[str, ...]]] = OrderedDict()
        self._pending: set[str] = set()
        self._wanted: Queue[str] = Queue(QUEUED)
        self._found: Queue[tuple[str, float, tuple[str, ...]]] = Queue()
        self._stop = Event()
        self._thread: Thread | None = None

    def names(self, address: str) -> tuple[tuple[str, ...], float]:
        """What is known of an address by now, and since how many seconds; asks where nothing is."""
        if self._thread is None:
            # Only now, so that it has no more rights than who asks.
            self._thread = Thread(target=self._work, name="names ptr", daemon=True)
            self._thread.start()
        self._take()
        now = time.monotonic()
        known = self._known.get(address)
        if known is not None and now < known[1]:
            return known[2], now - known[0]
        if address not in self._pending:
            try:
                self._wanted.put_nowait(address)
                self._pending.add(address)
            except Full:
                self.dropped += 1
        return (known[2], now - known[0]) if known is not None else ((), 0.0)

    def close(self) -> None:
        """End; a look-up that is under way is not waited for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * _IDLE_S)

    def _take(self) -> None:
        with suppress(Empty):
            while True:
                address, good_s, names = self._found.get_nowait()
                now = time.monotonic()
                self._pending.discard(address)
                self._known.pop(address, None)
                self._known[address] = now, now + good_s, names
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                address = self._wanted.get(timeout=_IDLE_S)
            except Empty:
                continue
            names = self._look_up(address)
            self._found.put((address, KEPT_S if names else FAILED_S, names))
            self._stop.wait(self._pause_s)

    def _look_up(self, address: str) -> tuple[str, ...]:
        try:
            if self._resolver is None:
                self._resolver = dns.resolver.Resolver()
            # A port that inputs know to be ours: what only sees packets could not tell whose they are.
            answer = self._resolver.resolve(
                dns.reversename.from_address(str(ip_address(address.partition("%")[0]))),
                "PTR",
                lifetime=WITHIN_S,
                source_port=reserve(socket.SOCK_DGRAM),
                search=False,
            )
            return tuple(text_of(record.target) for record in answer)[:MOST_NAMES]
        except (dns.exception.DNSException, OSError, ValueError):
            return ()

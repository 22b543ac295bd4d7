# SPDX-License-Identifier: MIT
"""Connections counted by process and destination, with how many came lately; in bounded memory."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Literal

import msgspec

from pyegress.plugin import Batch
from pyegress.record import Connection, Process

WINDOW_S = 10
"""Rates are of the last whole seconds, so many. A UDP flow that goes on is reported as often."""
_SECOND_NS = 1_000_000_000

By = Literal["process", "destination", "both"]
Sort = Literal["rate", "count", "new", "name"]


class Recent:
    """How many there were in each of the last seconds."""

    __slots__ = ("_counts", "_second")

    def __init__(self, second: int) -> None:
        self._counts = [0] * WINDOW_S
        self._second = second

    def add(self, second: int) -> None:
        """Count one more in a second that is not before the last one."""
        for passed in range(max(self._second + 1, second - WINDOW_S + 1), second + 1):
            self._counts[passed % WINDOW_S] = 0
        self._second = second
        self._counts[second % WINDOW_S] += 1

    def total(self, second: int) -> int:
        """Of the seconds up to this one."""
        first = max(second, self._second) - WINDOW_S + 1
        return sum(self._counts[at % WINDOW_S] for at in range(first, self._second + 1))


class Row(msgspec.Struct, gc=False):
    """One process, one destination, or one of both."""

    recent: Recent
    first_ns: int
    last_ns: int
    """Both on the clock that the Tally is told."""
    latest: Connection
    """Whose other fields, such as the pid, are those of the newest."""
    total: int = 0


class Shown(msgspec.Struct, frozen=True):
    """A row as it is at one time."""

    latest: Connection
    total: int
    per_s: float
    is_new: bool


class View(msgspec.Struct, frozen=True):
    """The first rows and what is true of all."""

    rows: list[Shown]
    known: int
    """Rows that there are."""
    evicted: int
    """Rows that were let go."""
    connections: int
    per_s: float
    running_s: int


class Tally:
    """Counts in one thread and is looked at in another; `now_ns` is of a clock that is never set back."""

    def __init__(self, by: By, most: int, now_ns: int) -> None:
        self._key = _KEYS[by]
        self._most = most
        self._began_ns = now_ns
        self._lock = Lock()
        # In the order in which they were last seen.
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._recent = Recent(now_ns // _SECOND_NS)
        self.connections = 0
        """All that were counted."""
        self._evicted = 0

    def add(self, batch: Batch, now_ns: int) -> None:
        """Count the connections of a batch; the rows that were not seen for longest make room."""
        second = now_ns // _SECOND_NS
        with self._lock:
            for connection in batch:
                key = self._key(connection)
                row = self._rows.get(key)
                if row is None:
                    if len(self._rows) >= self._most:
                        self._rows.popitem(last=False)
                        self._evicted += 1
                    row = self._rows[key] = Row(Recent(second), now_ns, now_ns, connection)
                else:
                    self._rows.move_to_end(key)
                row.last_ns = now_ns
                row.latest = connection
                row.total += 1
                row.recent.add(second)
                self._recent.add(second)
            self.connections += len(batch)

    def view(self, sort: Sort, most: int, now_ns: int, new_ns: int) -> View:
        """The first rows in that order; new are those first seen in the last `new_ns`."""
        second = now_ns // _SECOND_NS
        # A rate in the first second would be of next to no time.
        over_s = min(WINDOW_S, max(1, second - self._began_ns // _SECOND_NS + 1))
        with self._lock:
            before = _ORDERS[sort]
            rows = heapq.nsmallest(most, self._rows.values(), key=lambda row: before(row, second))
            shown = [
                Shown(
                    row.latest, row.total, row.recent.total(second) / over_s, now_ns - row.first_ns < new_ns
                )
                for row in rows
            ]
            return View(
                shown,
                len(self._rows),
                self._evicted,
                self.connections,
                self._recent.total(second) / over_s,
                (now_ns - self._began_ns) // _SECOND_NS,
            )


def name(connection: Connection) -> str | None:
    """Name of the process, or of its program where it has none."""
    process = connection.process
    if process is None:
        return None
    return process.name or process.comm or (process.exe.rpartition("/")[2] if process.exe else None)


def service(process: Process | None) -> str | None:
    """The container that a process is in, otherwise its unit, that of a user's own systemd before the system's."""
    if process is None:
        return None
    container = process.container_name or (process.container and process.container[:12])
    return container or process.user_unit or process.unit


def _process_key(connection: Connection) -> Hashable:
    process = connection.process
    if process is None:
        return connection.attribution
    known = name(connection)
    why = None if known else connection.attribution
    return known, why, process.exe, process.uid, process.user, service(process)


def _destination_key(connection: Connection) -> Hashable:
    return connection.dest_ip, connection.dest_port, connection.protocol


_KEYS: dict[By, Callable[[Connection], Hashable]] = {
    "process": _process_key,
    "destination": _destination_key,
    "both": lambda connection: (_process_key(connection), _destination_key(connection)),
}
_ORDERS: dict[Sort, Callable[[Row, int], tuple[int | str, ...]]] = {
    "rate": lambda row, second: (-row.recent.total(second), -row.last_ns),
    "count": lambda row, second: (-row.total, -row.last_ns),
    "new": lambda row, second: (-row.first_ns,),
    "name": lambda row, second: ((name(row.latest) or "").casefold(), row.latest.dest_ip),
}

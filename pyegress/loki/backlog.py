# SPDX-License-Identifier: MIT
"""Batches that wait for delivery, oldest first: in memory, and in a spool where there is one. Both are bounded.

The order is kept, as Loki refuses what is much older than the newest of its stream.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from threading import Condition

from pyegress.loki.batcher import Sealed
from pyegress.loki.spool import Spool, Spooled

_Entry = Sealed | Spooled


class Backlog:
    """Any thread may put; one thread takes `first`, delivers it and says `done`."""

    def __init__(
        self,
        memory_bytes: int,
        spool: Spool | None,
        lost: Callable[[str, int], None],
        notice: Callable[[str], None],
        waits: bool = False,
    ) -> None:
        """`waits`: who puts waits for room (`await_room`), so that nothing has to be lost for want of it."""
        self._waits = waits
        self._memory_bytes = memory_bytes
        self._spool = spool
        self._lost = lost
        self._notice = notice
        self._entries: deque[_Entry] = deque(spool.left if spool is not None else ())
        self._bytes = 0
        self._ended = False
        self._spool_failed = False
        self._changed = Condition()

    def put(self, sealed: Sealed) -> None:
        """Keep a batch, or count it as lost where there is no room; never waits for a delivery."""
        with self._changed:
            entry = self._kept(sealed)
            if entry is None:
                self._lost("no room for what waits (raise queue, or spool-size)", sealed.records)
            else:
                self._entries.append(entry)
                self._changed.notify_all()

    def await_room(self, within_s: float) -> bool:
        """Whether there is room, after that long at most; always where nobody is to wait for it."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waits or self._bytes < self._memory_bytes, timeout=within_s
            )

    def end(self) -> None:
        """No more will be put: `first` gives None when nothing is left."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def first(self) -> _Entry | None:
        """The oldest batch, which stays until it is `done`; waits until there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._ended)
            return self._entries[0] if self._entries else None

    def body(self, entry: _Entry) -> bytes | None:
        """What to send; None where the spool does not have it any more, which is counted."""
        if isinstance(entry, Sealed):
            return entry.body
        assert self._spool is not None
        try:
            return self._spool.read(entry)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._notice(f"loki: {entry.name} in spool {self._spool.name} is lost: {why}")
            self._lost("files of the spool that could not be read", entry.records)
            return None

    def done(self) -> None:
        """The first was delivered, or is given up."""
        with self._changed:
            entry = self._entries.popleft()
            if isinstance(entry, Sealed):
                self._bytes -= len(entry.body)
                self._changed.notify_all()
                return
            assert self._spool is not None
            try:
                self._spool.remove(entry)
            except FileNotFoundError:
                pass  # what somebody took away was said when it was read
            except OSError as error:
                self._notice(
                    f"loki: cannot remove {entry.name} from spool {self._spool.name}: {os.strerror(error.errno or 0)}; "
                    "it will be delivered again"
                )

    def waiting(self) -> tuple[int, int]:
        """Records in memory, which end with the program, and in the spool, which do not."""
        with self._changed:
            in_memory = sum(entry.records for entry in self._entries if isinstance(entry, Sealed))
            return in_memory, sum(entry.records for entry in self._entries) - in_memory

    def _kept(self, sealed: Sealed) -> _Entry | None:
        if self._spool is not None:
            try:
                spooled = self._spool.put(sealed.body, sealed.records)
            except OSError as error:
                if not self._spool_failed:
                    self._spool_failed = True
                    self._notice(
                        f"loki: cannot write to spool {self._spool.name}: {os.strerror(error.errno or 0)}; "
                        "what it can't take waits in memory"
                    )
            else:
                self._spool_failed = False
                if spooled is not None:
                    return spooled
        if not self._waits and self._bytes and self._bytes + len(sealed.body) > self._memory_bytes:
            return None
        self._bytes += len(sealed.body)
        return sealed

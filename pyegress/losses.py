# SPDX-License-Identifier: MIT
"""What was observed and did not arrive, counted by stage, so that nothing is lost unsaid."""

from threading import Lock


class Losses:
    """Counters by (stage, reason). Thread-safe; a counter that stays 0 is not shown.

    Words: `lost` was seen and is gone; `skipped` was filtered by choice; `unattributed` is
    reported without (part of) its process; `unnamed` without a host name.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._put: dict[tuple[str, str], dict[str, int]] = {}
        self._lock = Lock()

    def add(self, stage: str, reason: str, count: int = 1) -> None:
        """Count `count` more at a stage."""
        if count:
            with self._lock:
                key = (stage, reason)
                self._counts[key] = self._counts.get(key, 0) + count

    def put(self, stage: str, reason: str, total: int, source: str = "") -> None:
        """Set a counter that something else keeps, such as the kernel; those of several sources add up."""
        with self._lock:
            self._put.setdefault((stage, reason), {})[source] = total

    def keep(self, source: str) -> None:
        """What a source has put stays, and what it puts from now on is added: it counts from 0 again."""
        with self._lock:
            for key, by_source in self._put.items():
                self._counts[key] = self._counts.get(key, 0) + by_source.pop(source, 0)

    def snapshot(self) -> dict[tuple[str, str], int]:
        """Every counter above 0, in stage order."""
        with self._lock:
            totals = dict(self._counts)
            for key, by_source in self._put.items():
                totals[key] = totals.get(key, 0) + sum(by_source.values())
        return {key: totals[key] for key in sorted(totals) if totals[key] > 0}

    def total(self, stage: str) -> int:
        """Sum of one stage's counters."""
        return sum(count for (at, _), count in self.snapshot().items() if at == stage)

    def lines(self) -> list[str]:
        """One line a counter, for stderr."""
        return [f"{stage}: {count} {reason}" for (stage, reason), count in self.snapshot().items()]

# SPDX-License-Identifier: MIT
"""What was observed and did not arrive, counted by stage, so that nothing is lost unsaid."""

from threading import Lock


class Losses:
    """Counters by (stage, reason). Thread-safe; a counter that stays 0 is not shown.

    Words: `lost` was seen and is gone; `skipped` was filtered by choice; `unattributed` is
    reported without (part of) its process.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = Lock()

    def add(self, stage: str, reason: str, count: int = 1) -> None:
        """Count `count` more at a stage."""
        if count:
            with self._lock:
                key = (stage, reason)
                self._counts[key] = self._counts.get(key, 0) + count

    def put(self, stage: str, reason: str, total: int) -> None:
        """Set a counter that something else keeps, such as the kernel."""
        with self._lock:
            self._counts[stage, reason] = total

    def snapshot(self) -> dict[tuple[str, str], int]:
        """Every counter above 0, in stage order."""
        with self._lock:
            return {key: self._counts[key] for key in sorted(self._counts) if self._counts[key] > 0}

    def total(self, stage: str) -> int:
        """Sum of one stage's counters."""
        return sum(count for (at, _), count in self.snapshot().items() if at == stage)

    def lines(self) -> list[str]:
        """One line a counter, for stderr."""
        return [f"{stage}: {count} {reason}" for (stage, reason), count in self.snapshot().items()]

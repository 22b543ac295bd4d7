# SPDX-License-Identifier: MIT
"""The thread that delivers batches, oldest first, and tries again until each is delivered or refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

from pyegress.loki.backlog import Backlog
from pyegress.loki.batcher import Sealed
from pyegress.loki.transport import Answer, Verdict
from pyegress.loki.waits import FIRST_WAIT_S, growing

LAST_WAIT_S = 1.0
"""Longest wait between tries at exit."""
NO_ANSWER = "no answer within flush-timeout"
REFUSALS_SAID_S = 60.0
"""Refusals are said at most this often; each is counted."""


class Sender:
    """`push` sends one body within a timeout in seconds."""

    def __init__(
        self,
        backlog: Backlog,
        push: Callable[[bytes, float], Answer],
        timeout_s: float,
        lost: Callable[[str, int], None],
        notice: Callable[[str], None],
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self.error: Exception | None = None
        """What ended it, where nothing should have."""
        self.trouble = NO_ANSWER
        """Why what waits is not delivered."""
        self._backlog = backlog
        self._push = push
        self._timeout_s = timeout_s
        self._lost = lost
        self._notice = notice
        self._first_wait_s = first_wait_s
        self._failures = 0
        self._refusals_unsaid_until = 0.0
        self._deadline: float | None = None
        self._renew_s = 0.0
        self._finishing = Event()
        self._abandoned = Event()
        self._thread = Thread(target=self._run, name="loki sender", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def finish(self, within_s: float, progress: Callable[[], None], waits: bool = False) -> None:
        """Deliver what there is, at most for that long; `progress` is called now and then until it is over.

        `waits`: that long for each batch, as long as one is delivered after the other.

        The backlog must have been ended. A request or a name look-up that hangs longer is left behind.
        """
        self._renew_s = within_s if waits else 0.0
        self._deadline = time.monotonic() + within_s
        self._finishing.set()
        while self._thread.is_alive() and (left := self._deadline - time.monotonic()) > 0:
            self._thread.join(min(left, 0.1))
            progress()
        self._abandoned.set()

    def _run(self) -> None:
        try:
            while (entry := self._backlog.first()) is not None and not self._abandoned.is_set():
                body = self._backlog.body(entry)
                if body is not None and not self._deliver(body, entry.records, isinstance(entry, Sealed)):
                    return
                self._backlog.done()
        except Exception as error:
            self.error = error

    def _deliver(self, body: bytes, count: int, only_copy: bool) -> bool:
        """Whether the batch is done with; False only where the end comes first."""
        while True:
            left = self._time_left()
            if left <= 0:
                return False
            answer = self._push(body, min(self._timeout_s, left))
            if self._abandoned.is_set():
                return False
            if answer.verdict is Verdict.DELIVERED:
                if self._failures > 1:
                    self._notice("loki: it takes batches again")
                self._failures = 0
                self.trouble = NO_ANSWER
                if self._renew_s:
                    self._deadline = time.monotonic() + self._renew_s
                return True
            if answer.verdict is Verdict.REFUSED:
                self._refused(answer.reason, count)
                return True
            if not self._wait(answer, only_copy):
                return False

    def _wait(self, answer: Answer, only_copy: bool) -> bool:
        """Let time pass before the next try; False where there will be none."""
        self._failures += 1
        self.trouble = answer.reason
        # A first failure alone is a kept connection that the server had closed.
        if self._failures == 2:
            self._notice(f"loki: cannot deliver: {answer.reason}; kept, and tried again")
        wait_s = growing(self._failures, answer.retry_after_s, self._first_wait_s)
        if not self._finishing.is_set():
            self._finishing.wait(wait_s)
            return True
        if self._failures == 1:
            return True
        # What a spool has is delivered by the next run.
        wait_s = max(min(wait_s, LAST_WAIT_S), answer.retry_after_s)
        if not only_copy or wait_s >= self._time_left():
            return False
        return not self._abandoned.wait(wait_s)

    def _refused(self, reason: str, count: int) -> None:
        self._failures = 0
        self._lost("refused by Loki", count)
        now = time.monotonic()
        if now >= self._refusals_unsaid_until:
            self._refusals_unsaid_until = now + REFUSALS_SAID_S
            self._notice(f"loki: a batch of {count} records is dropped: {reason}")

    def _time_left(self) -> float:
        if self._deadline is None:
            return self._timeout_s
        return self._deadline - time.monotonic()

# SPDX-License-Identifier: MIT
"""Questions that were seen, so that nobody's answer is believed who wasn't asked."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from pyegress.names.message import Question
from pyegress.names.segment import Ends

MOST = 16_384
PATIENCE_NS = 60_000_000_000
"""Resolvers give up sooner."""

_Key = tuple[Ends, Question]


class _Open(msgspec.Struct, gc=False):
    times: int
    when_ns: int
    tgid: int


class Asked:
    """For one thread; times are of any one clock."""

    def __init__(self, most: int = MOST) -> None:
        self.forgotten = 0
        """Questions whose place was needed before they were old."""
        self._most = most
        self._open: OrderedDict[_Key, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, ends: Ends, question: Question, now_ns: int, tgid: int = 0) -> None:
        """Remember a question; one that is sent again may be answered as often."""
        key = ends, question
        again = self._open.pop(key, None)
        times = again.times + 1 if again is not None else 1
        self._open[key] = _Open(times, now_ns, tgid or (again.tgid if again is not None else 0))
        while len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            self.forgotten += now_ns - oldest.when_ns < PATIENCE_NS

    def answer(self, ends: Ends, question: Question, now_ns: int) -> int | None:
        """Who asked this very question of this very server (0: not known); None where nobody did, or it is answered."""
        key = ends, question
        found = self._open.get(key)
        if found is None:
            return None
        if now_ns - found.when_ns >= PATIENCE_NS:
            del self._open[key]
            return None
        found.times -= 1
        if not found.times:
            del self._open[key]
        return found.tgid

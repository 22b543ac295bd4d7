# SPDX-License-Identifier: MIT
"""Process filters that the kernel can't apply: names and command lines with globs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyegress.errors import UsageError
from pyegress.plugin import Batch
from pyegress.record import Connection, Process

CACHED_PROCESSES = 16384


class _Rule(NamedTuple):
    key: str
    generations: int
    """How many parents up the process to look at is."""
    matches: Callable[[Process], bool]


class ProcessFilters:
    """Hides connections whose process matches any pattern; an unknown process is never hidden.

    For one thread. `hits` counts, by `option:pattern`, the connections that the pattern is first to hide.
    """

    def __init__(
        self,
        ignore_comm: Sequence[str] = (),
        ignore_cmdline: Sequence[str] = (),
        ignore_parent: Sequence[str] = (),
        ignore_grandparent: Sequence[str] = (),
    ) -> None:
        self._rules: list[_Rule] = []
        for option, patterns, generations, matcher in (
            ("ignore-comm", ignore_comm, 0, _name_matcher),
            ("ignore-cmdline", ignore_cmdline, 0, _cmdline_matcher),
            ("ignore-parent", ignore_parent, 1, _name_matcher),
            ("ignore-grandparent", ignore_grandparent, 2, _name_matcher),
        ):
            for pattern in patterns:
                if not pattern:
                    raise UsageError(f"{option}: the pattern must not be empty")
                self._rules.append(_Rule(f"{option}:{pattern}", generations, matcher(pattern)))
        self.hits = {rule.key: 0 for rule in self._rules}
        # By id, because hashing a Process hashes all its parents; the reference keeps the id taken.
        self._judged: dict[int, tuple[Process, str | None]] = {}

    def keep(self, connection: Connection) -> bool:
        """Whether the connection is to be reported."""
        return bool(self.apply((connection,)))

    def apply(self, batch: Batch) -> Batch:
        """The connections to report, in order; the same object where none is hidden."""
        if not self._rules:
            return batch
        judged, hits = self._judged, self.hits
        kept: list[Connection] = []
        for connection in batch:
            process = connection.process
            if process is None:
                kept.append(connection)
                continue
            known = judged.get(id(process))
            hidden_by = known[1] if known is not None else self._judge(process)
            if hidden_by is None:
                kept.append(connection)
            else:
                hits[hidden_by] += 1
        return batch if len(kept) == len(batch) else kept

    def _judge(self, process: Process) -> str | None:
        ancestry: list[Process | None] = [process, process.parent]
        ancestry.append(process.parent.parent if process.parent else None)
        hidden_by = None
        for rule in self._rules:
            subject = ancestry[rule.generations]
            if subject is not None and rule.matches(subject):
                hidden_by = rule.key
                break
        if len(self._judged) >= CACHED_PROCESSES:
            self._judged.clear()
        self._judged[id(process)] = (process, hidden_by)
        return hidden_by


def _name_matcher(pattern: str) -> Callable[[Process], bool]:
    matches = _glob(pattern) or pattern.__eq__

    def match(process: Process) -> bool:
        return any(name is not None and matches(name) for name in (process.name, process.comm))

    return match


def _cmdline_matcher(pattern: str) -> Callable[[Process], bool]:
    glob = _glob(pattern)

    def match(process: Process) -> bool:
        if process.cmdline is None:
            return False
        return glob(process.cmdline) if glob else pattern in process.cmdline

    return match


def _glob(pattern: str) -> Callable[[str], bool] | None:
    """A whole-text matcher, or None where the pattern is plain text."""
    if not any(sign in pattern for sign in "*?["):
        return None
    # fnmatch.fnmatchcase caches only 256 patterns; translate is the same glob with `*` crossing newlines.
    compiled = re.compile(fnmatch.translate(pattern))
    return lambda text: compiled.match(text) is not None

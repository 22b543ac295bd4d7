# SPDX-License-Identifier: MIT
r"""Filters by the names of destinations: patterns of labels, of which `*` stands within one and `**` for some.

A connection without a name is never hidden: what isn't known may be anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pyegress.destinations import DestinationFilterOptions, put_rule
from pyegress.errors import UsageError
from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.plugin import Batch
from pyegress.record import Connection

_CHARACTER = r"(?:[^.\\]|\\[0-9]{3}|\\[^0-9])"
"""Of a label as names are shown: a dot that is in one has a backslash before it."""
_SIGNS = {"*": f"{_CHARACTER}*", "?": _CHARACTER}


class _Rule(NamedTuple):
    label: str
    pattern: re.Pattern[str]


class NameFilters:
    """Hides by any ignore-rule that one of the names matches, or where only-rules are and no name matches any.

    Raises UsageError for a pattern that can't be. For one thread.
    """

    def __init__(self, options: DestinationFilterOptions) -> None:
        self._ignore = _rules("ignore-name", options.ignore_name)
        self._only = _rules("only-name", options.only_name)
        self._hits: Counter[str] = Counter()

    def apply(self, batch: Batch) -> Batch:
        """The connections to report, in order; the same object where there is no rule."""
        if not (self._ignore or self._only):
            return batch
        return [connection for connection in batch if self._keeps(connection)]

    def counts(self) -> Counter[str]:
        """Hits by label."""
        return Counter(dict(self._hits))

    def put(self, losses: Losses, source: str) -> None:
        """Show what was hidden, as one source's."""
        for label, count in self.counts().items():
            put_rule(losses, source, label, count)

    def _keeps(self, connection: Connection) -> bool:
        if not connection.dest_names:
            return True
        if rule := _first(self._ignore, connection.dest_names):
            self._hits[rule.label] += connection.count
            return False
        if self._only and not _first(self._only, connection.dest_names):
            self._hits["outside only-name"] += connection.count
            return False
        return True


def matcher(option: str, given: str) -> re.Pattern[str]:
    """A pattern, to be matched with a whole name; UsageError where it can't be."""
    text = given.lower().removesuffix(".")
    labels = text.split(".")
    if not all(labels):
        raise UsageError(
            f"{option}: {display(given)}: must be a name such as a.example, *.example, **.example"
        )
    return re.compile(r"\.".join(map(_label, labels)))


def _label(label: str) -> str:
    if label == "**":
        return rf"{_CHARACTER}+(?:\.{_CHARACTER}+)*"
    if label == "*":
        return f"{_CHARACTER}+"
    return "".join(_SIGNS.get(sign) or re.escape(sign) for sign in label)


def _rules(option: str, given: Sequence[str]) -> list[_Rule]:
    return [_Rule(f"{option}:{text}", matcher(option, text)) for text in given]


def _first(rules: Sequence[_Rule], names: Sequence[str]) -> _Rule | None:
    return next((rule for rule in rules if any(map(rule.pattern.fullmatch, names))), None)

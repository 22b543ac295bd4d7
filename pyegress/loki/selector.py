# SPDX-License-Identifier: MIT
"""LogQL: the selector of a log query, and one that asks for a label's value too."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_SELECTOR = re.compile(r'\s*\{((?:[^"`{}]|"(?:[^"\\]|\\.)*"|`[^`]*`)*)\}', re.DOTALL)


class Parts(NamedTuple):
    """A log query."""

    matchers: str
    """What stands between the braces."""
    rest: str
    """The filters behind them."""

    @property
    def selector(self) -> str:
        """The first part of the query."""
        return f"{{{self.matchers}}}"

    def where(self, label: str, value: str) -> str:
        """The query for the streams with this value."""
        # LogQL takes Go's escapes, which all of JSON's are.
        own = f"{label}={msgspec.json.encode(value).decode()}"
        others = self.matchers.strip().rstrip(",")
        return f"{{{own}{',' if others else ''}{others}}}{self.rest}"


def parts(query: str) -> Parts:
    """Take a log query apart; ValueError where it doesn't begin as one."""
    match = _SELECTOR.match(query)
    if match is None or not match[1].strip():
        raise ValueError('query: must be a log query of LogQL, which begins like {job="pyegress"}')
    return Parts(match[1], query[match.end() :])

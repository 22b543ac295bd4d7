# SPDX-License-Identifier: MIT
"""Times as logs have them: RFC 3339 in UTC, with nanoseconds."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

_SECOND_NS = 1_000_000_000
_LAST_NS = 253_402_300_799_999_999_999
"""RFC 3339 ends with the year 9999."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")


def parsed(text: str) -> int:
    """ns since the epoch; ValueError for another form, and for a time that no calendar has."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time in UTC")
    second, fraction = match.groups()
    since = datetime.fromisoformat(second + "+00:00") - _EPOCH
    return since // timedelta(seconds=1) * _SECOND_NS + int((fraction or "").ljust(9, "0"))


class Clock:
    """Writes times; those of one second after the other cost little."""

    def __init__(self) -> None:
        self._second_ns = 0
        self._text = "1970-01-01T00:00:00."

    def text(self, ts: int) -> str:
        """A time in ns since the epoch, or the nearest one that RFC 3339 has."""
        if not 0 <= ts - self._second_ns < _SECOND_NS:
            ts = min(max(ts, 0), _LAST_NS)
            self._second_ns = ts - ts % _SECOND_NS
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(self._second_ns // _SECOND_NS))
        return f"{self._text}{str(ts - self._second_ns + _SECOND_NS)[1:]}Z"


class TimeReader:
    """Reads times; those of one second after the other cost little."""

    def __init__(self) -> None:
        self._second = ""
        self._second_ns = 0

    def ns(self, text: str) -> int:
        """Since the epoch; ValueError where it is no time."""
        fraction = text[20:29]
        if text[:20] == self._second and len(text) == 30 and text[29] == "Z" and _is_number(fraction):
            return self._second_ns + int(fraction)
        ts = parsed(text)
        self._second, self._second_ns = text[:20], ts - ts % _SECOND_NS
        return ts


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()

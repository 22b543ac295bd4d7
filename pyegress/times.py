# SPDX-License-Identifier: MIT
"""Times and spans as people read them."""

from __future__ import annotations

import time

_SECOND_NS = 1_000_000_000
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def rfc3339(ts_ns: int) -> str:
    """UTC to the second, of ns since the epoch."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ts_ns // _SECOND_NS))


def duration_text(span_ns: int) -> str:
    """The two largest units: `3d 4h`, `12m 5s`, `0s`."""
    rest = span_ns // _SECOND_NS
    parts: list[str] = []
    for unit, seconds in _UNITS:
        count, rest = divmod(rest, seconds)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0")) or "0s"

# SPDX-License-Identifier: MIT
"""What was made of something that comes again is kept, in bounded memory: where it is full, all is forgotten."""

from __future__ import annotations

from typing import TypeVar

MOST = 4096

K = TypeVar("K")
V = TypeVar("V")


def keep(cache: dict[K, V], key: K, value: V, most: int = MOST) -> V:
    """Keep a value among at most so many, and give it back."""
    if len(cache) >= most:
        cache.clear()
    cache[key] = value
    return value

# SPDX-License-Identifier: MIT
"""What was made of text that comes again, in bounded memory whatever the text."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_WIDEST = 5
"""Bytes of memory that a byte of the text can take: itself as a key, and 4 in a str that has one emoji."""
_SHARE = 16
"""What takes more than this part of the memory is not kept: it would push out all others."""


class Kept(dict[K, V], Generic[K, V]):
    """A dict that forgets all when it is full."""

    def __init__(self, most_bytes: int, entry_bytes: int) -> None:
        """`entry_bytes` is what an entry takes beside its text."""
        super().__init__()
        self._most_bytes = most_bytes
        self._entry_bytes = entry_bytes
        self._used_bytes = 0

    def keep(self, key: K, value: V, text_bytes: int) -> V:
        """Keep a value that was made from so much text, and give it back."""
        size = self._entry_bytes + _WIDEST * text_bytes
        if size > self._most_bytes // _SHARE:
            return value
        self._used_bytes += size
        if self._used_bytes > self._most_bytes:
            self.clear()
            self._used_bytes = size
        self[key] = value
        return value

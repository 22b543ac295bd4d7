# SPDX-License-Identifier: MIT
"""A stream as lines, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

LINE_BYTES = 2 << 20
"""More than what nine generations of hostile names and arguments can make of a line of ours."""
_READ_BYTES = 128 << 10
"""Some hundred lines, and what is cut from it still fits a CPU's cache."""


class Source(Protocol):
    """Where bytes come from: a stream, or a share of a file."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def cut_short(self) -> bool:
        """Whether it ended inside its compressed data."""

    def read_into(self, view: memoryview) -> int | None:
        """Put bytes to a view; how many, 0 at the end, None where there are none yet."""


class Lines:
    """The lines of a stream without their ends, some hundred at a time."""

    def __init__(self, stream: Source, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """`is_stopped` ends them where nothing comes."""
        self._stream = stream
        self._is_stopped = is_stopped
        self.too_long = 0
        """Lines that were left out, until now."""
        self.unfinished = b""
        """What stands behind the last line end, when all is read."""

    def __iter__(self) -> Iterator[list[bytes]]:
        view = memoryview(bytearray(_READ_BYTES))
        begun, size = bytearray(), 0
        while (came := self._stream.read_into(view)) != 0:
            if came is None:
                if self._is_stopped():
                    return
                continue
            first, *rest = bytes(view[:came]).split(b"\n")
            size += len(first)
            begun += first if size <= LINE_BYTES else b""
            if rest:
                last = rest.pop()
                yield self._whole(begun, size) + rest
                begun, size = bytearray(last), len(last)
        self.unfinished = b"".join(self._whole(begun, size))

    def _whole(self, line: bytearray, size: int) -> list[bytes]:
        if size > LINE_BYTES:
            self.too_long += 1
            return []
        return [bytes(line)]

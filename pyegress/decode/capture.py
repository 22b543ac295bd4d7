# SPDX-License-Identifier: MIT
"""A capture, pcap or pcapng -> `struct egress_packet`s of what may open a connection, and counts of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pyegress.decode.packet import Unreadable
from pyegress.decode.stream import Progress, Stream
from pyegress.errors import InputError

BATCH = 4096
CHUNK_BYTES = 1 << 18


class Source(Protocol):
    """Where the bytes of a capture come from."""

    name: str
    """For messages."""

    def read_into(self, view: memoryview) -> int | None:
        """Put bytes to a view: how many, 0 at the end, None where there are none yet."""


class Capture:
    """Reads a capture once. Raises InputError, which names the source and the cause."""

    def __init__(self, source: Source) -> None:
        from pyegress._native import ffi, lib

        self._ffi, self._lib = ffi, lib
        self._source = source
        self.name = source.name
        self._self = ffi.gc(lib.egress_capture_new(), lib.egress_capture_free)
        self._counts = lib.egress_capture_counts(self._self)

    def read(self) -> Iterator[memoryview]:
        """Records in batches, each valid until the next is asked for; an empty one where a pipe gives nothing yet.

        What stands before a fault of the file comes before the error.
        """
        ffi, lib = self._ffi, self._lib
        arena = ffi.new("struct egress_packet[]", BATCH)
        records = memoryview(ffi.buffer(arena))
        record_bytes = len(records) // BATCH
        window = bytearray(lib.EGRESS_MOST_RECORD_BYTES + CHUNK_BYTES)
        view, data = memoryview(window), ffi.from_buffer("char[]", window)
        used = ffi.new("size_t *")
        begin = end = 0
        last = False
        while True:
            made = lib.egress_capture_feed(self._self, data + begin, end - begin, last, used, arena, BATCH)
            begin += used[0]
            if made < 0:
                raise self._error(ffi.string(lib.egress_capture_error(self._self)).decode())
            if made:
                yield records[: made * record_bytes]
                continue
            if last:
                break
            view[: end - begin] = view[begin:end]
            begin, end = 0, end - begin
            came = self._source.read_into(view[end : end + CHUNK_BYTES])
            if came is None:
                yield records[:0]
            else:
                last = came == 0
                end += came
        if self.packets and self.packets == self._counts.unreadable[lib.EGRESS_UNSUPPORTED_LINK]:
            raise self._error(f"link type {self._unsupported()} is not supported")

    @property
    def packets(self) -> int:
        """Packets so far, whatever they are."""
        return int(self._counts.packets)

    @property
    def cut_short(self) -> bool:
        """Whether it ended inside a record."""
        return bool(self._counts.ends_inside)

    def counts(self) -> dict[str, int]:
        """Packets that were not given, or without a time, by the reason, in words that follow "packets"."""
        counts = self._counts
        by_reason = {
            reason.value: counts.unreadable[getattr(self._lib, f"EGRESS_{reason.name}")]
            for reason in Unreadable
        }
        unsupported = by_reason.pop(Unreadable.UNSUPPORTED_LINK.value)
        return {
            "of TCP that open no connection": counts.later_tcp,
            "of other protocols than TCP and UDP": counts.other_protocols,
            "without a time": counts.untimed,
            **by_reason,
            f"{Unreadable.UNSUPPORTED_LINK.value} ({self._unsupported()})": unsupported,
        }

    def interface_name(self, number: int) -> str | None:
        """The name that the capture gives an interface; any text."""
        name = self._ffi.string(self._lib.egress_capture_interface(self._self, number))
        return str(name.decode("utf-8", "surrogateescape")) or None

    def _unsupported(self) -> str:
        numbers: list[str] = []
        while (number := self._lib.egress_capture_unsupported(self._self, len(numbers))) >= 0:
            numbers.append(str(number))
        return ", ".join(numbers) or "none"

    def _error(self, text: str) -> InputError:
        return InputError(f"cannot read {self._source.name}: {text}")


class CaptureFile(Capture):
    """Reads a file once; `-` is standard input."""

    def __init__(self, path: str) -> None:
        self._stream = Stream(path)
        super().__init__(self._stream)

    @property
    def cut_short(self) -> bool:
        """Whether it ended inside a record, or inside its compressed data."""
        return super().cut_short or self._stream.cut_short

    @property
    def progress(self) -> Progress:
        """How far it is read."""
        return self._stream.progress

    def close(self) -> None:
        """Let go of it; may be called twice."""
        self._stream.close()

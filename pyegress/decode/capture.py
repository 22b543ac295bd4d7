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
_NO_OPENINGS = (Unreadable.NOT_IP, Unreadable.LATER_FRAGMENT)


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

    def read(self) -> Iterator[memoryview | None]:
        """Records in batches, each valid until the next is asked for; None where a pipe gives nothing yet.

        Batches may be empty, so that whoever reads can stop. What stands before a fault of the file comes before the
        error.
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
            while (came := self._source.read_into(view[end : end + CHUNK_BYTES])) is None:
                yield None
            yield records[:0]
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

    @property
    def untimed(self) -> int:
        """Packets that were given without a time."""
        return int(self._counts.untimed)

    def skipped(self) -> dict[str, int]:
        """Packets that open no connection, by the reason, in words that follow "packets"."""
        return {
            "of TCP that open no connection": self._counts.later_tcp,
            "of other protocols than TCP and UDP": self._counts.other_protocols,
            **{reason.value: self._count(reason) for reason in _NO_OPENINGS},
        }

    def unreadable(self) -> dict[str, int]:
        """Packets that might have opened one, in such words too."""
        unsupported = Unreadable.UNSUPPORTED_LINK
        return {
            f"{reason.value} ({self._unsupported()})" if reason is unsupported else reason.value: self._count(
                reason
            )
            for reason in Unreadable
            if reason not in _NO_OPENINGS
        }

    def interface_name(self, number: int) -> str | None:
        """The name that the capture gives an interface; any text."""
        name = self._ffi.string(self._lib.egress_capture_interface(self._self, number))
        return str(name.decode("utf-8", "surrogateescape")) or None

    def _count(self, reason: Unreadable) -> int:
        return int(self._counts.unreadable[getattr(self._lib, f"EGRESS_{reason.name}")])

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

# SPDX-License-Identifier: MIT
"""DNS messages in TCP streams (RFC 1035, 4.2.2), put together from segments as they pass; of bounded size."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator

import msgspec

from pyegress.names.segment import FIN, RST, SYN, Ends, Segment

MOST_STREAMS = 1024
MOST_BYTES = 8 << 20
"""In all streams together."""
_LENGTH_BYTES = 2
_NUMBERS = 1 << 32


class _Stream(msgspec.Struct, gc=False):
    next: int
    held: bytearray


class Streams:
    """For one thread."""

    def __init__(self, most: int = MOST_STREAMS, most_bytes: int = MOST_BYTES) -> None:
        self.given_up: Counter[str] = Counter()
        """Streams by why they are not followed."""
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._streams: OrderedDict[tuple[Ends, bool], _Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def held_bytes(self) -> int:
        """Of messages that are not whole yet."""
        return self._bytes

    def messages(self, segment: Segment) -> Iterator[bytes]:
        """Each message that becomes whole by a segment."""
        key = segment.ends, segment.is_answer
        payload, at = segment.payload, segment.seq
        if segment.flags & SYN:
            self._drop(key)
            at += 1
            self._streams[key] = _Stream(at % _NUMBERS, bytearray())
            self._make_room()
        stream = self._streams.get(key)
        if stream is None:
            self.given_up["segments of streams whose beginning was missed"] += bool(payload)
            return
        if payload:
            # A part may have come before.
            known = (stream.next - at) % _NUMBERS
            if known > _NUMBERS // 2:
                self._give_up(key, "a segment is missing or came too early")
                return
            payload = payload[known:]
            stream.next = (stream.next + len(payload)) % _NUMBERS
            stream.held += payload
            self._bytes += len(payload)
            self._streams.move_to_end(key)
            yield from self._whole(stream)
            if segment.is_cut:
                self._give_up(key, "a segment was cut")
            self._make_room()
        if segment.flags & (FIN | RST):
            self._drop(key)

    def _whole(self, stream: _Stream) -> Iterator[bytes]:
        held, at = stream.held, 0
        while len(held) - at >= _LENGTH_BYTES:
            end = at + _LENGTH_BYTES + int.from_bytes(held[at : at + _LENGTH_BYTES], "big")
            if end > len(held):
                break
            message, at = bytes(held[at + _LENGTH_BYTES : end]), end
            yield message
        del held[:at]
        self._bytes -= at

    def _make_room(self) -> None:
        while len(self._streams) > self._most or self._bytes > self._most_bytes:
            self._give_up(next(iter(self._streams)), "too many at a time")

    def _give_up(self, key: tuple[Ends, bool], why: str) -> None:
        if self._drop(key):
            self.given_up[why] += 1

    def _drop(self, key: tuple[Ends, bool]) -> bool:
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._bytes -= len(stream.held)
        return stream is not None

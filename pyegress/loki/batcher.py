# SPDX-License-Identifier: MIT
"""Connections in, bodies of push requests out."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import NamedTuple

import msgspec

from pyegress.loki.fields import Fields, quoted
from pyegress.plugin import Batch

LEVEL = 1
"""gzip's fastest: such text shrinks to a tenth even so."""
_PART = 256


class Sealed(NamedTuple):
    """A batch as it is sent."""

    body: bytes
    """gzip of the JSON that POST /loki/api/v1/push takes."""
    records: int


class Batcher:
    """Gathers records by stream until they are as many bytes of JSON as a batch may have. For one thread at a time."""

    def __init__(
        self,
        lines: Callable[[Batch], str],
        labels: dict[str, str],
        fields: Fields,
        batch_bytes: int,
    ) -> None:
        self.since: float | None = None
        """Monotonic time of the first record that waits here."""
        self._lines = lines
        self._labels = ",".join(f'"{name}":{quoted(value)}' for name, value in labels.items())
        self._fields = fields
        self._batch_bytes = batch_bytes
        self._streams: dict[str, list[tuple[int, bytes]]] = {}
        self._bytes = 0
        self._count = 0
        self._last_stamp = 0

    def add(self, batch: Batch) -> Iterator[Sealed]:
        """Take records; gives the batches that they fill."""
        fields_of, encode = self._fields.of, msgspec.json.encode
        for at in range(0, len(batch), _PART):
            part = batch[at : at + _PART]
            lines = self._lines(part)[:-1].split("\n")
            for connection, line in zip(part, lines, strict=True):
                labels, metadata = fields_of(connection)
                ts = connection.ts or self._stamp()
                head = f'["{ts}",'.encode()
                value = b"%b%b,{%b}]" % (head, encode(line), metadata[1:].encode())
                if self._count == 0:
                    self.since = time.monotonic()
                stream = self._streams.get(labels)
                if stream is None:
                    stream = self._streams[labels] = []
                    self._bytes += len(labels) + len(self._labels)
                stream.append((ts, value))
                self._count += 1
                self._bytes += len(value)
                if self._bytes >= self._batch_bytes and (sealed := self.seal()) is not None:
                    yield sealed

    def seal(self) -> Sealed | None:
        """What waits as a batch; None where nothing does."""
        if not self._count:
            return None
        streams = [self._stream(labels, values) for labels, values in self._streams.items()]
        body = b'{"streams":[' + b",".join(streams) + b"]}"
        sealed = Sealed(gzip.compress(body, LEVEL, mtime=0), self._count)
        self._streams.clear()
        self._bytes = self._count = 0
        self.since = None
        return sealed

    def _stream(self, labels: str, values: list[tuple[int, bytes]]) -> bytes:
        # Threads and CPUs report a little out of order; Loki is quicker where entries ascend.
        values.sort(key=itemgetter(0))
        text = b",".join([value for _, value in values])
        return b'{"stream":{%b},"values":[%b]}' % ((self._labels + labels).encode(), text)

    def _stamp(self) -> int:
        """Now, for a record without a time; never the same twice, as Loki drops an equal line of an equal time."""
        self._last_stamp = max(time.time_ns(), self._last_stamp + 1)
        return self._last_stamp

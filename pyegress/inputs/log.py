# SPDX-License-Identifier: MIT
"""Connections of earlier logs, as they were logged: nothing is looked up, so that nothing of today gets into them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from operator import itemgetter
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.destinations import PACKET, PROTOCOL_NUMBERS, DestinationFilters, put_rule
from pyegress.errors import InputError
from pyegress.filters import ProcessFilters, RecordFilterOptions
from pyegress.logs.reader import LogReader
from pyegress.namefilters import NameFilters
from pyegress.plugin import Batch, Context, Input
from pyegress.record import PACKET_PREFIX, Connection

_BATCH = 512
_ADDRESSES_KEPT = 65536
_NO_PROTOCOL = -1
"""Of what has no number, which options can't name."""


class LogOptions(RecordFilterOptions, frozen=True, kw_only=True):
    """Options of the log input."""

    file: Annotated[
        tuple[str, ...],
        Meta(
            description="log of -o logfmt, json or sqlite, or of egress-auditor, also gzip or zstd compressed; - for "
            "standard input; several are merged by time"
        ),
    ]
    allow_loopback: Annotated[bool, Meta(description="report connections to 127.0.0.0/8 and ::1")] = True
    """They were asked for when they were logged."""


class Log(Input):
    """The input; see LogOptions."""

    name: ClassVar[str] = "log"
    summary: ClassVar[str] = "earlier logs of pyegress, as they are (`pyegress replay` reads them)"
    Options: ClassVar[type[plugin.Options]] = LogOptions
    waits = True
    replays = True

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._destinations = DestinationFilters(options)
        self._processes = ProcessFilters(options)
        self._names = NameFilters(options)
        self._has_destinations = bool(
            len(self._destinations) or options.protocol or not options.allow_loopback
        )
        self._context: Context | None = None
        self._reader: LogReader | None = None
        self._stopping = False

    def open(self, context: Context) -> None:
        """Files are opened by `read`, so that one that nobody writes to yet can be waited for and given up."""
        self._context = context
        self._reader = LogReader(context.losses)

    def read(self) -> Iterator[Batch]:
        """The logs to their ends, or `stop`; InputError where one can't be read."""
        reader = self._reader
        if reader is None:
            raise InputError("log: not open")
        files = self._options.file
        for batch in reader.read(files[0]) if len(files) == 1 else self._merged(reader):
            yield self._names.apply(self._processes.apply(self._wanted(batch)))
            if self._stopping:
                return

    def stop(self) -> None:
        """Make `read` end."""
        self._stopping = True
        if self._reader is not None:
            self._reader.stop()

    def close(self) -> None:
        """Let go."""
        self._reader = None

    def refresh_losses(self) -> None:
        """Hits of the filters into the Losses."""
        if self._context is None:
            return
        losses, destinations = self._context.losses, self._destinations
        destinations.put(losses, self.name)
        for label, hits in zip(self._processes.labels, self._processes.hits, strict=True):
            put_rule(losses, self.name, label, hits)
        self._names.put(losses, self.name)

    def _merged(self, reader: LogReader) -> Iterator[Batch]:
        batch = []
        logs = [_timed(reader.read(file)) for file in self._options.file]
        for _, connection in heapq.merge(*logs, key=itemgetter(0)):
            batch.append(connection)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch

    def _wanted(self, batch: Batch) -> Batch:
        if not self._has_destinations:
            return batch
        keep = self._destinations.keep
        return [
            connection
            for connection in batch
            if keep(
                _protocol_number(connection.protocol),
                _packed(connection.dest_ip),
                connection.dest_port,
                connection.count,
            )
        ]


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[int, Connection]]:
    """Connections with their times; what has none is as late as the one before it."""
    last_ns = 0
    for batch in batches:
        for connection in batch:
            last_ns = connection.ts or last_ns
            yield last_ns, connection


def _protocol_number(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    if text.startswith(PACKET_PREFIX):
        return PACKET
    return PROTOCOL_NUMBERS.get(text, (_NO_PROTOCOL,))[0]


@lru_cache(_ADDRESSES_KEPT)
def _packed(text: str) -> bytes:
    """The 16 bytes of an address that was checked when it was read; one with a zone has none of it there."""
    address = ip_address(text.partition("%")[0])
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed

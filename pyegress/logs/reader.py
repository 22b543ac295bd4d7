# SPDX-License-Identifier: MIT
"""Earlier logs of pyegress, and logfmt of egress-auditor -> connections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pyegress.decode.stream import Stream
from pyegress.errors import InputError
from pyegress.logs import jsonl, logfmt
from pyegress.logs.lines import Lines
from pyegress.logs.store import is_store, read_store
from pyegress.losses import Losses
from pyegress.record import Connection

_STAGE = "unreadable"
_LOGFMT = re.compile(rb"(?:\A| )(?:ts|hook|protocol|dest_ip|ip_version|proc_name|proc_pid)=")
_JSON = re.compile(rb'"(?:ts|hook|protocol|dest_ip|ip_version)":')

_Format = jsonl.Decoder | logfmt.LogfmtReader


class LogReader:
    """Reads one log after the other; for one thread. Equal processes are one object, as long as the memory lasts."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._jsonl = jsonl.Decoder()
        self._logfmt = logfmt.LogfmtReader()

    def read(self, path: str) -> Iterator[Sequence[Connection]]:
        """What a file, plain, gzip or zstd, standard input (`-`) or a store of sqlite holds, some hundred at a time.

        Raises InputError where it can't be read, or is no log. Damaged lines are counted as losses.
        """
        if is_store(path):
            yield from read_store(path, self._losses)
            return
        stream = Stream(path)
        try:
            yield from self._batches(stream)
        finally:
            stream.close()

    def _batches(self, stream: Stream) -> Iterator[Sequence[Connection]]:
        lines = Lines(stream)
        form: _Format | None = None
        for some in lines:
            if form is None:
                form = self._format(some, stream.name)
            if form is not None and (batch := self._connections(form, some, stream.name)):
                yield batch
        last = [lines.unfinished]
        if form is None:
            form = self._format(last, stream.name)
        # Half a line of logfmt can look whole; half an object can't.
        if isinstance(form, jsonl.Decoder):
            if batch := self._connections(form, last, stream.name):
                yield batch
        elif lines.unfinished.strip():
            self._lost(stream.name, 1)
        if lines.too_long and form is None:
            raise _no_log(stream.name)
        self._lost(stream.name, lines.too_long)
        if stream.cut_short:
            self._losses.add(_STAGE, f"{stream.name}: compressed data that ends early")

    def _format(self, lines: Sequence[bytes], name: str) -> _Format | None:
        """What the first line that isn't empty is; None where all are."""
        for line in lines:
            if not line.strip():
                continue
            if not line.startswith(b"{") and _LOGFMT.search(line):
                return self._logfmt
            if _JSON.search(line):
                return self._jsonl
            raise _no_log(name)
        return None

    def _connections(self, form: _Format, lines: Sequence[bytes], name: str) -> list[Connection]:
        read = form.connection
        found, damaged = [], 0
        for line in lines:
            try:
                found.append(read(line))
            except ValueError:
                damaged += bool(line.strip())
        self._lost(name, damaged)
        return found

    def _lost(self, name: str, lines: int) -> None:
        self._losses.add(_STAGE, f"{name}: lines that are no record of pyegress", lines)


def _no_log(name: str) -> InputError:
    return InputError(
        f"{name}: not a log of pyegress: its first line is none; name files that -o logfmt or -o json wrote"
    )

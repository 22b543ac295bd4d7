# SPDX-License-Identifier: MIT
"""Earlier logs of pyegress, and logfmt of egress-auditor -> connections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from pyegress.decode.stream import Stream
from pyegress.errors import InputError
from pyegress.logs import jsonl, logfmt
from pyegress.logs.lines import Lines, Source
from pyegress.logs.repeats import Gathered, Repeating
from pyegress.logs.shares import Share, Shares
from pyegress.logs.store import is_store, read_store
from pyegress.losses import Losses
from pyegress.record import Connection, Repeats

_STAGE = "unreadable"
_LOGFMT = re.compile(rb"(?:\A| )(?:ts|hook|protocol|dest_ip|ip_version|proc_name|proc_pid)=")
_JSON = re.compile(rb'"(?:ts|hook|protocol|dest_ip|ip_version)":')

_Counts = dict[tuple[str, str], int]
_Format = jsonl.Decoder | logfmt.LogfmtReader


class LogReader:
    """Reads one log after the other; for one thread. Equal processes are one object, as long as the memory lasts."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._stopped = False
        self._jsonl = jsonl.Decoder()
        self._logfmt = logfmt.LogfmtReader()

    def read(self, path: str) -> Iterator[Sequence[Connection]]:
        """What a file, plain, gzip or zstd, standard input (`-`) or a store of sqlite holds, some hundred at a time.

        Raises InputError where it can't be read, or is no log. Damaged lines are counted as losses.
        """
        if is_store(path):
            yield from read_store(path, self._losses)
            return
        for name, form, lines in self._parts(path):
            if batch := self._connections(form, lines, name):
                yield batch

    def stop(self) -> None:
        """End what waits for more; from any thread."""
        self._stopped = True

    def repeats(self, path: str) -> Iterator[Sequence[Repeats]]:
        """The same with what repeats as one, in a fraction of the time; not in the order of the log."""
        if is_store(path):
            for batch in read_store(path, self._losses):
                yield [Repeats.of(connection) for connection in batch]
            return
        with closing(Shares(path)) as shares:
            form = self._format(shares.first_lines, shares.name) if shares.is_worth_it else None
            gathered: Repeating | None = None
            shared = form and self._parts_of(shares.start(partial(_given, form)), form)
            for name, form, lines in shared or self._parts(path):
                gathered = gathered or Repeating(form)
                self._lost(name, gathered.add(lines))
                if gathered.is_full:
                    yield from gathered.take()
            for given in shares.results():
                if isinstance(given, dict):
                    for (stage, reason), count in given.items():
                        self._losses.add(stage, reason, count)
                elif gathered is not None:
                    gathered.merge(given)
                    if gathered.is_full:
                        yield from gathered.take()
            if gathered is not None:
                yield from gathered.take()

    def given(self, form: _Format, share: Share) -> Iterator[Gathered]:
        """What repeats in a share, for the process that puts all together."""
        gathered = Repeating(form)
        for name, _, lines in self._parts_of(share, form):
            self._lost(name, gathered.add(lines))
            if gathered.is_full:
                yield from gathered.give()
        yield from gathered.give()

    def _parts(self, path: str) -> Iterator[tuple[str, _Format, list[bytes]]]:
        """The log's name, its format, and some hundred lines."""
        stream = Stream(path)
        try:
            yield from self._parts_of(stream)
        finally:
            stream.close()

    def _parts_of(
        self, stream: Source, form: _Format | None = None
    ) -> Iterator[tuple[str, _Format, list[bytes]]]:
        """Without a format it is found out."""
        lines = Lines(stream, lambda: self._stopped)
        for some in lines:
            if form is None:
                form = self._format(some, stream.name)
            if form is not None:
                yield stream.name, form, some
        last = [lines.unfinished]
        if form is None:
            form = self._format(last, stream.name)
        # Half a line of logfmt can look whole; half an object can't.
        if isinstance(form, jsonl.Decoder):
            yield stream.name, form, last
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


def _given(form: _Format, share: Share) -> Iterator[Gathered | _Counts]:
    """What another process makes of a share; what was lost comes last."""
    losses = Losses()
    yield from LogReader(losses).given(form, share)
    yield losses.snapshot()


def _no_log(name: str) -> InputError:
    return InputError(
        f"{name}: not a log of pyegress: its first line is none; name files that -o logfmt or -o json wrote"
    )

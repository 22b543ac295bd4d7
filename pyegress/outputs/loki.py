# SPDX-License-Identifier: MIT
"""Pushes connections to Loki, or to what takes Loki's pushes (VictoriaLogs, Grafana Cloud)."""

from __future__ import annotations

import socket
from threading import Condition, Thread
from time import monotonic
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.loki.backlog import Backlog
from pyegress.loki.batcher import Batcher
from pyegress.loki.fields import LABELS, NAMES, Fields
from pyegress.loki.labels import HOST, JOB, labels, stream_labels
from pyegress.loki.options import EndpointOptions
from pyegress.loki.sender import Sender
from pyegress.loki.spool import Spool
from pyegress.options import DurationNs, SizeBytes
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Batch, Context
from pyegress.redact import Redact

_SECOND = 1_000_000_000
_LOOK_S = 0.5
"""How often who waits for room looks whether there will be any."""
REPLAYED = {"source": "replay"}
"""Label of a replay's streams."""


class LokiOptions(EndpointOptions, frozen=True, kw_only=True):
    """Options of the loki output."""

    redact: Redact = True
    labels: Annotated[
        str, Meta(description="stream labels of all records, NAME=VALUE,...; host and job can be replaced")
    ] = ""
    stream_labels: Annotated[
        str,
        Meta(
            description="fields that become stream labels, NAME,...: few, with few values; others are metadata"
        ),
    ] = ""
    batch_size: Annotated[
        SizeBytes, Meta(ge=1024, le=64 << 20, description="a batch is sent when it has this much JSON")
    ] = 1 << 20
    batch_wait: Annotated[
        DurationNs, Meta(ge=1_000_000, le=3600 * _SECOND, description="or when its first record is this old")
    ] = _SECOND
    queue: Annotated[
        SizeBytes,
        Meta(ge=1 << 16, le=16 << 30, description="memory for compressed batches while Loki takes none"),
    ] = 32 << 20
    spool: Annotated[
        str,
        Meta(
            description="folder that keeps batches until they are delivered, also over a restart; none: memory"
        ),
    ] = ""
    spool_size: Annotated[
        SizeBytes, Meta(ge=1 << 16, description="most that may be in it; more is lost, and counted")
    ] = 1 << 30
    timeout: Annotated[
        DurationNs,
        Meta(ge=1_000_000, le=3600 * _SECOND, description="how long Loki may take to connect, and to answer"),
    ] = 10 * _SECOND
    flush_timeout: Annotated[
        DurationNs, Meta(le=3600 * _SECOND, description="how long the end waits for the last deliveries")
    ] = 10 * _SECOND

    def __post_init__(self) -> None:
        super().__post_init__()
        labels(self.labels, NAMES)
        stream_labels(self.stream_labels, LABELS)


class Loki(plugin.Output):
    """Makes batches in the thread that writes; another one sends them, so that a slow Loki holds up nobody."""

    name: ClassVar[str] = "loki"
    summary: ClassVar[str] = "pushes batches to Grafana Loki, kept and tried again while it can't be reached"
    Options: ClassVar[type[plugin.Options]] = LokiOptions

    def __init__(self, options: LokiOptions) -> None:
        self._options = options
        self._batcher = _batcher(options, {})
        self._changed = Condition()
        self._closing = False
        self._opened: _Opened | None = None
        self._sealer: Thread | None = None

    def open(self, context: Context) -> None:
        if context.replays:
            # Loki refuses what is an hour older than the newest of its stream: not the one that is live.
            self._batcher = _batcher(self._options, REPLAYED)
        self._opened = _Opened(self._options, context)
        self._sealer = Thread(
            target=self._seal_in_time, args=(self._opened,), name="loki batches", daemon=True
        )
        self._sealer.start()

    def write(self, batch: Batch) -> None:
        opened = self._opened
        if opened is None or self._closing:
            raise OutputError("loki: not open")
        opened.raise_error()
        while not opened.backlog.await_room(_LOOK_S):
            opened.raise_error()
        with self._changed:
            for sealed in self._batcher.add(batch):
                opened.backlog.put(sealed)
            self._changed.notify()

    def reopen(self) -> None:
        """Read the file with the password again."""
        if self._opened is not None and self._options.pass_file:
            self._opened.renew(self._options)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
            last = self._batcher.seal()
            if last is not None:
                opened.backlog.put(last)
        if self._sealer is not None:
            self._sealer.join()
        opened.finish()
        opened.raise_error()

    def _seal_in_time(self, opened: _Opened) -> None:
        wait_s = self._options.batch_wait / 1e9
        try:
            with self._changed:
                while not self._closing:
                    since = self._batcher.since
                    if since is None:
                        self._changed.wait()
                    elif (left := since + wait_s - monotonic()) > 0:
                        self._changed.wait(left)
                    elif (sealed := self._batcher.seal()) is not None:
                        opened.backlog.put(sealed)
        except Exception as error:  # raised where somebody listens
            opened.error = error


def _batcher(options: LokiOptions, also: dict[str, str]) -> Batcher:
    host = {HOST: display(socket.gethostname()), JOB: "pyegress"}
    return Batcher(
        Logfmt(LogfmtOptions(redact=options.redact)).lines,
        host | also | labels(options.labels, NAMES),
        Fields(stream_labels(options.stream_labels, LABELS), options.redact),
        options.batch_size,
    )


class _Opened:
    """What there is between open and close."""

    def __init__(self, options: LokiOptions, context: Context) -> None:
        # Here, because it is slow to import and nobody else needs it.
        from pyegress.loki.client import Client
        from pyegress.loki.transport import Transport

        self.error: Exception | None = None
        """What ended the thread that makes batches by time."""
        self._context = context
        self._flush_s = options.flush_timeout / 1e9
        self.transport = Transport(Client(options))
        self.spool = Spool(options.spool, options.spool_size) if options.spool else None
        self.backlog = Backlog(options.queue, self.spool, self._lost, context.notice, context.waits)
        timeout_s = options.timeout / 1e9
        self.sender = Sender(self.backlog, self.transport.push, timeout_s, self._lost, context.notice)
        _, left = self.backlog.waiting()
        if self.spool is not None and left:
            context.notice(f"loki: {left} records of an earlier run wait in spool {self.spool.name}")
        self.sender.start()

    def renew(self, options: LokiOptions) -> None:
        """Connect anew, with what files hold now; OutputError leaves everything as it is."""
        from pyegress.loki.client import Client

        self.transport.go_on_with(Client(options))

    def raise_error(self) -> None:
        """What ended a thread that should go on."""
        error = self.error or self.sender.error
        if error is not None:
            raise error

    def finish(self) -> None:
        """Deliver what can be, and say what could not."""
        self.backlog.end()
        self._count_undelivered()
        self.sender.finish(self._flush_s, self._count_undelivered, self._context.waits)
        self._count_undelivered()
        in_memory, left = self.backlog.waiting()
        if in_memory:
            self._context.notice(f"loki: {in_memory} records are lost at exit: {self.sender.trouble}")
        if self.spool is not None:
            if left:
                self._context.notice(f"loki: {left} records wait in spool {self.spool.name} for the next run")
            self.spool.close()
        self.transport.close()

    def _count_undelivered(self) -> None:
        # Kept up to date, since whoever is in a hurry ends the program before this has come to its end.
        in_memory, _ = self.backlog.waiting()
        self._context.losses.put("lost", "output loki: not delivered at exit", in_memory)

    def _lost(self, reason: str, count: int) -> None:
        self._context.losses.add("lost", f"output loki: {reason}", count)

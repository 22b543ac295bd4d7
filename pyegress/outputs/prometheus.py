# SPDX-License-Identifier: MIT
"""Counters for Prometheus: asked for over HTTP, or in a file for node_exporter."""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from socketserver import TCPServer
from threading import Event, Lock, Thread
from typing import Annotated, Any, ClassVar, Literal
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from msgspec import Meta
from prometheus_client import CollectorRegistry, make_wsgi_app, write_to_textfile
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pyegress import __version__, plugin
from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.options import DurationNs
from pyegress.plugin import Batch, Context
from pyegress.privileges import Capability
from pyegress.record import Process

_SECOND = 1_000_000_000
_CACHED = 8192
_LABEL_CHARACTERS = 128
_FILTERED = ("skipped", "matched")
_OTHER, _UNKNOWN = "other", "unknown"
_PATIENCE_S = 5
"""For a client that says nothing."""
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", re.ASCII)


class PrometheusOptions(plugin.Options, frozen=True, kw_only=True):
    """Options of the prometheus output."""

    listen: Annotated[
        str, Meta(description="address for http://ADDRESS/metrics; port 0: any that is free, which is said")
    ] = "127.0.0.1:9411"
    textfile: Annotated[
        str,
        Meta(description="file to replace instead, ending in .prom, for node_exporter's textfile collector"),
    ] = ""
    interval: Annotated[
        DurationNs, Meta(ge=_SECOND // 10, description="how often the file is replaced, and at exit")
    ] = 15 * _SECOND
    by: Annotated[
        Literal["process", "unit", "user", "none"],
        Meta(description="whose connections are told apart, beside the protocol"),
    ] = "process"
    series: Annotated[
        int, Meta(ge=1, le=100_000, description="so many are told apart; the rest is counted as other")
    ] = 200

    def __post_init__(self) -> None:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise ValueError("textfile: must end in .prom, or node_exporter does not read it")
        match = _LISTEN.fullmatch(self.listen)
        if not match or int(match[3]) > 65535:
            raise ValueError(
                f"listen:{self.listen}: must be ADDRESS:PORT such as 127.0.0.1:9411 or [::1]:9411"
            )


class Prometheus(plugin.Output):
    """Counts in the pipeline's thread; another one answers, or writes the file."""

    name: ClassVar[str] = "prometheus"
    summary: ClassVar[str] = (
        "counters of connections, losses and filters for Prometheus, by HTTP or in a file"
    )
    Options: ClassVar[type[plugin.Options]] = PrometheusOptions
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.NET_BIND_SERVICE})

    def __init__(self, options: PrometheusOptions) -> None:
        self._options = options
        self._counts = _Counts(options.by, options.series)
        self._publisher: _Server | _File | None = None

    def open(self, context: Context) -> None:
        registry = CollectorRegistry()
        registry.register(_Metrics(self._counts, context))
        if self._options.textfile:
            self._publisher = _File(self._options.textfile, registry, self._options.interval, context.notice)
        else:
            self._publisher = _Server(self._options.listen, registry)
            context.tell(f"prometheus: {self._publisher.address}")

    def write(self, batch: Batch) -> None:
        self._counts.add(batch)

    def close(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()


class _Counts:
    """Connections by protocol and by whose they were."""

    def __init__(self, by: str, most: int) -> None:
        self.by = by
        self._most = most
        self._lock = Lock()
        self._counts: dict[tuple[str, str], int] = {}
        # The process is kept beside its label, so that its id can't become another's while it is a key.
        self._labels: dict[int, tuple[Process | None, str]] = {}

    def add(self, batch: Batch) -> None:
        """Count the connections of a batch."""
        with self._lock:
            for connection in batch:
                process = connection.process
                found = self._labels.get(id(process))
                if found is None:
                    if len(self._labels) >= _CACHED:
                        self._labels.clear()
                    found = self._labels[id(process)] = process, _label(_whose(process, self.by))
                key = (connection.protocol, found[1])
                if key not in self._counts and len(self._counts) >= self._most:
                    key = (connection.protocol if connection.protocol in ("tcp", "udp") else _OTHER, _OTHER)
                # Only a store's row stands for several connects.
                more = connection.count if connection.protocol == "tcp" else 1
                self._counts[key] = self._counts.get(key, 0) + more

    def snapshot(self) -> dict[tuple[str, str], int]:
        """Counts by protocol and label."""
        with self._lock:
            return dict(self._counts)


def _whose(process: Process | None, by: str) -> str | None:
    if process is None or by == "none":
        return None
    if by == "process":
        return process.name or process.comm
    return process.user if by == "user" else process.user_unit or process.unit


def _label(text: str | None) -> str:
    """What somebody else chose, as a short label."""
    return display(text)[:_LABEL_CHARACTERS] if text else _UNKNOWN


class _Metrics(Collector):
    """What is true when it is asked for."""

    def __init__(self, counts: _Counts, context: Context) -> None:
        self._counts = counts
        self._context = context
        self._started = time.time()

    def collect(self) -> Iterator[Metric]:
        """All metrics; the library calls it."""
        yield InfoMetricFamily("pyegress", "The program", {"version": __version__})
        yield GaugeMetricFamily("pyegress_start_time_seconds", "Start, since the epoch", self._started)
        by = self._counts.by
        connections = CounterMetricFamily(
            "pyegress_connections", "Records of connections", labels=["protocol"] + [by] * (by != "none")
        )
        for (protocol, label), count in self._counts.snapshot().items():
            connections.add_metric([_label(protocol)] + [label] * (by != "none"), count)
        yield connections
        self._context.refresh()
        lost = CounterMetricFamily(
            "pyegress_lost", "What was not recorded, or not wholly", labels=["stage", "reason"]
        )
        filtered = CounterMetricFamily(
            "pyegress_filtered", "What filters decided", labels=["decision", "reason"]
        )
        for (stage, reason), count in self._context.losses.snapshot().items():
            (filtered if stage in _FILTERED else lost).add_metric([_label(stage), _label(reason)], count)
        yield lost
        yield filtered
        queues = GaugeMetricFamily(
            "pyegress_queued_records", "Records that wait for an output", labels=["output"]
        )
        for output, waiting in self._context.queues().items():
            queues.add_metric([_label(output)], waiting)
        yield queues


class _Quiet(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to know who asked."""


class _Listener(WSGIServer):
    """One client after the other: whoever is allowed to ask must not be able to use up threads or descriptors."""

    client: socket.socket | None = None

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        # HTTPServer would ask the DNS for the name.
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.client = request
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class _Server:
    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        match = _LISTEN.fullmatch(listen)
        assert match  # by the options
        host = match[1] or match[2]
        family = socket.AF_INET6 if match[1] else socket.AF_INET
        listener = type("_Listener", (_Listener,), {"address_family": family})
        try:
            self._server: _Listener = listener((host, int(match[3])), _Quiet)
        except OSError as error:
            raise OutputError(f"prometheus: can't listen on {display(listen)}: {_way_on(error)}") from error
        self._server.set_app(make_wsgi_app(registry))
        port = self._server.server_address[1]
        self.address = f"http://{f'[{host}]' if match[1] else display(host)}:{port}/metrics"
        self._thread = Thread(
            target=self._server.serve_forever, args=(0.1,), name="prometheus server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        closing = Thread(target=self._server.shutdown, daemon=True)
        closing.start()
        # A client that is slow on purpose must not hold up the end.
        while self._thread.is_alive():
            client = self._server.client
            if client is not None:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.1)
        closing.join()
        self._server.server_close()


class _File:
    def __init__(
        self, path: str, registry: CollectorRegistry, interval_ns: int, notice: Callable[[str], None]
    ) -> None:
        self._path = path
        self._registry = registry
        self._interval_s = interval_ns / _SECOND
        self._notice = notice
        self._closing = Event()
        self._trouble = ""
        self._write()
        self._thread = Thread(target=self._write_in_time, name="prometheus file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._write()

    def _write(self) -> None:
        try:
            # Readable by all, as node_exporter is another user: these are counts and names, which ps shows too.
            write_to_textfile(self._path, self._registry)
        except (OSError, ValueError) as error:
            why = display(str(error)) if isinstance(error, ValueError) else _way_on(error)
            raise OutputError(f"prometheus: can't write {display(self._path)}: {why}") from error

    def _write_in_time(self) -> None:
        while not self._closing.wait(self._interval_s):
            trouble = ""
            try:
                self._write()
            except OutputError as error:
                trouble = f"{error}; it is tried again"
            if trouble and trouble != self._trouble:
                self._notice(trouble)
            self._trouble = trouble


def _way_on(error: OSError) -> str:
    why = display(error.strerror or str(error))
    if error.errno == errno.EADDRINUSE:
        return f"{why}; name another port (-O prometheus:listen:127.0.0.1:PORT)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{why}; name an address of this host (-O prometheus:listen:ADDRESS:PORT)"
    return why

# SPDX-License-Identifier: MIT
"""The host's own log: systemd's journal with a field for each key of logfmt, or a syslog daemon."""

from __future__ import annotations

import errno
import logging
import re
import socket
import time
from collections.abc import Callable
from logging.handlers import SysLogHandler
from typing import Annotated, Any, ClassVar, Literal

from logging_journald import JournaldTransport
from msgspec import Meta

from pyegress import plugin
from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Batch, Context
from pyegress.redact import RedactOptions

_SOCKETS = {"journal": "/run/systemd/journal/socket", "syslog": "/dev/log"}
_IDENTIFIER = "pyegress"
_INFORMATION, _DAEMON = 6, 3
_PATIENCE_S = 5.0
"""While a log daemon is started again."""
_RETRY_S = 0.1
_PAIR = re.compile(r'([a-z_0-9]+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')


class JournalOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of the journal output."""

    to: Annotated[
        Literal["journal", "syslog"],
        Meta(
            description="journal: systemd's, with fields PYEGRESS_DEST_IP and so on; syslog: a line of logfmt"
        ),
    ] = "journal"
    socket: Annotated[
        str, Meta(description=f"its socket, if not {_SOCKETS['journal']} or {_SOCKETS['syslog']}")
    ] = ""


class Journal(plugin.Output):
    """Hands each connection to the daemon, and waits where that can't keep up."""

    name: ClassVar[str] = "journal"
    summary: ClassVar[str] = "systemd's journal with structured fields, or syslog"
    Options: ClassVar[type[plugin.Options]] = JournalOptions

    def __init__(self, options: JournalOptions) -> None:
        self._path = options.socket or _SOCKETS[options.to]
        self._to = options.to
        self._logfmt = Logfmt(LogfmtOptions(redact=options.redact))
        self._context: Context | None = None
        self._send: Callable[[str], None] = _discard
        self._close: Callable[[], None] = lambda: None
        self._in_trouble = False

    def open(self, context: Context) -> None:
        try:
            _probe(self._path)
        except (OSError, ValueError) as error:
            other = "syslog" if self._to == "journal" else "journal"
            way_on = f"name its socket, or try -O journal:to:{other}"
            raise OutputError(f"journal: no {self._to} at {self._where}: {_why(error)}; {way_on}") from error
        if self._to == "journal":
            self._open_journal()
        else:
            self._open_syslog()
        self._context = context

    def write(self, batch: Batch) -> None:
        context = self._context
        if context is None:
            raise OutputError("journal: not open")
        lines = self._logfmt.lines(batch).splitlines()
        for at, line in enumerate(lines):
            try:
                self._deliver(line)
            except OSError as error:
                if not self._in_trouble:
                    context.notice(
                        f"journal: {self._where}: {_why(error)}; connections are lost until it is back"
                    )
                self._in_trouble = True
                context.losses.add("lost", f"output journal: the {self._to} took none", len(lines) - at)
                return
            if self._in_trouble:
                self._in_trouble = False
                context.notice(f"journal: {self._where} is back")

    def close(self) -> None:
        self._context = None
        close, self._close = self._close, lambda: None
        close()

    @property
    def _where(self) -> str:
        return display(self._path)

    def _deliver(self, line: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._send(line)
                return
            except OSError:
                if self._in_trouble or time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)

    def _open_journal(self) -> None:
        # Not connected: each datagram goes to whoever has the socket of that name now.
        transport = JournaldTransport(self._path, connected=False)
        transport.socket.settimeout(_PATIENCE_S)
        self._close = transport.socket.close
        self._send = lambda line: transport.send(fields(line))

    def _open_syslog(self) -> None:
        handler = _Syslog(self._path, facility=SysLogHandler.LOG_DAEMON)
        handler.ident = f"{_IDENTIFIER}: "
        handler.socket.settimeout(_PATIENCE_S)  # type: ignore[attr-defined]  # unknown to typeshed
        self._close = handler.close
        self._send = lambda line: handler.emit(_record(line))


class _Syslog(SysLogHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """The library would print a traceback; this is called where the error can be raised again."""
        raise


def fields(line: str) -> list[tuple[str, Any]]:
    """What the journal gets for a line of logfmt: the line, and each of its values as a field."""
    pairs = [
        (f"PYEGRESS_{key.upper()}", bare or inside.replace('\\"', '"'))
        for key, inside, bare in _PAIR.findall(line)
    ]
    return [
        ("MESSAGE", line),
        ("PRIORITY", _INFORMATION),
        ("SYSLOG_FACILITY", _DAEMON),
        ("SYSLOG_IDENTIFIER", _IDENTIFIER),
        *pairs,
    ]


def _record(line: str) -> logging.LogRecord:
    return logging.LogRecord(_IDENTIFIER, logging.INFO, "", 0, line, None, None)


def _probe(path: str) -> None:
    """Raise OSError where nobody listens; the libraries would say so at the first record only."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            # Some syslog daemons take streams.
            if error.errno != errno.EPROTOTYPE:
                raise


def _discard(line: str) -> None:
    pass


def _why(error: OSError | ValueError) -> str:
    return display(getattr(error, "strerror", None) or str(error))

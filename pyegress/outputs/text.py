# SPDX-License-Identifier: MIT
"""Connections for a human reader, and the one-line notice of the inputs."""

from __future__ import annotations

import socket
import time
from functools import lru_cache
from threading import Lock
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.escape import display
from pyegress.outputs.filesink import FileOutput
from pyegress.plugin import Batch
from pyegress.record import Connection, Process

_SECOND = 1_000_000_000
_NO_TIME = "--:--:--"
_SERVICES = Lock()


class TextOptions(plugin.Options, frozen=True, kw_only=True):
    """Options of the text output."""

    file: Annotated[str, Meta(description="file to append to (0640, reopened on SIGHUP), - for stdout")] = "-"


@lru_cache(4096)
def _service(port: int | None, protocol: str) -> str:
    if port is None or protocol not in ("tcp", "udp"):
        return ""
    try:
        # glibc's answer is in memory that the next call writes to, from whatever thread.
        with _SERVICES:
            return f"({display(socket.getservbyport(port, protocol))})"
    except (OSError, OverflowError):
        return ""


@lru_cache(16)
def _clock(second: int) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(second))
    except (OSError, OverflowError, ValueError):
        return _NO_TIME


def _protocol(protocol: str) -> str:
    return f"IP protocol {display(protocol)}" if protocol.isdigit() else display(protocol).upper()


def _endpoint(ip: str, port: int | None) -> str:
    address = f"[{display(ip)}]" if ":" in ip else display(ip)
    return address if port is None else f"{address}:{port}"


def _destination(connection: Connection) -> str:
    port = connection.dest_port
    return _endpoint(connection.dest_ip, port) + _service(port, connection.protocol)


def _name(process: Process | None) -> str:
    name = None if process is None else process.name or process.comm
    return display(name) if name else "an unknown process"


def _home(process: Process) -> str | None:
    """The container that a process is in, otherwise its unit."""
    container = process.container_name or (process.container and process.container[:12])
    if container:
        return f"container {display(container)}"
    return f"unit {display(process.unit)}" if process.unit else None


def upstream_line(connection: Connection) -> str:
    """The notice of the inputs on stderr, such as `new TCP connection to 192.0.2.1:443(https) by curl`."""
    source = "to" if connection.src_ip is None else f"{_endpoint(connection.src_ip, connection.src_port)} ->"
    protocol, destination = _protocol(connection.protocol), _destination(connection)
    verdict = "" if connection.verdict is None else f" ({display(connection.verdict)})"
    return f"new {protocol} connection {source} {destination}{verdict} by {_name(connection.process)}"


def line(connection: Connection) -> str:
    """One connection; what the observed process chose comes last, where it can't pose as the rest."""
    when = _clock(connection.ts // _SECOND) if connection.ts else _NO_TIME
    parts = [when, _protocol(connection.protocol), _destination(connection)]
    if connection.direction != "out":
        parts.append(f"direction {display(connection.direction)}")
    if connection.count > 1:
        parts.append(f"x{connection.count}")
    if connection.result is not None:
        parts.append(display(connection.result))
    if connection.verdict is not None:
        parts.append(display(connection.verdict))
    process = connection.process
    number = "" if process is None or process.pid is None else f"[{process.pid}]"
    parts.append(f"by {_name(process)}{number}")
    if not number and connection.attribution is not None:
        parts.append(f"({display(connection.attribution)})")
    if process is not None:
        if process.user is not None:
            parts.append(f"user {display(process.user)}")
        home = _home(process)
        if home is not None:
            parts.append(home)
        if process.parent is not None:
            parts.append(f"parent {_name(process.parent)}[{process.parent.pid}]")
    if connection.dest_names:
        parts.append(f"names {display(','.join(connection.dest_names))}")
    elif connection.dest_names_missing is not None:
        parts.append(f"no name ({display(connection.dest_names_missing)})")
    return " ".join(parts)


class Text(FileOutput):
    """The output that is used when none is named."""

    name: ClassVar[str] = "text"
    summary: ClassVar[str] = "one readable line per connection, in local time"
    Options: ClassVar[type[plugin.Options]] = TextOptions

    def __init__(self, options: TextOptions) -> None:
        super().__init__(options.file)

    def write(self, batch: Batch) -> None:
        self.put("".join([line(connection) + "\n" for connection in batch]).encode())

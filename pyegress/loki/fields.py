# SPDX-License-Identifier: MIT
"""What Loki is told of a connection beside its line: each field as structured metadata, or as a stream label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pyegress.escape import display
from pyegress.record import Connection, Process
from pyegress.redact import Redactor
from pyegress.remember import keep

TARGET = ("hook", "protocol", "destip", "destport")
PROCESS = (
    "process",
    "pid",
    "user",
    "uid",
    "exe",
    "cmdline",
    "script",
    "parent",
    "grandparent",
    "unit",
    "user_unit",
    "slice",
    "login_session",
    "container",
    "container_name",
    "container_engine",
    "pod",
    "kernel",
)
REST = (
    "srcip",
    "result",
    "direction",
    "ifname",
    "netns",
    "kernel_socket",
    "thread",
    "attribution",
    "destnames",
    "destnamesources",
    "destnameages",
    "destnamesmissing",
    "verdict",
)
LABELS = (*TARGET, *PROCESS, *REST)
"""Fields that can be stream labels."""
NAMES = (*LABELS, "srcport", "count")
"""All; the last two are never labels, as each connection would be a stream of its own."""

VALUE_BYTES = 1024
"""Longer ones are cut, the line has all: Loki takes 64 KiB of metadata a line, and 2 KiB in a label."""

_Value = str | int | None


class Text(NamedTuple):
    """JSON members, each after a comma."""

    labels: str
    metadata: str


_NOTHING = Text("", "")


class Fields:
    """For one thread. The texts of what comes again are kept."""

    def __init__(self, as_labels: frozenset[str], redact: bool) -> None:
        self._as_labels = as_labels
        self._redactor = Redactor(redact)
        # The Process is kept beside its text, so that its id can't become another's while it is a key.
        self._processes: dict[int, tuple[Process, Text]] = {}
        self._targets: dict[tuple[_Value, ...], Text] = {}
        self._rest: dict[tuple[object, ...], Text] = {}

    def of(self, connection: Connection) -> Text:
        """The labels and the metadata of a record."""
        process = connection.process
        if process is None:
            by = _NOTHING
        else:
            kept = self._processes.get(id(process))
            by = kept[1] if kept is not None else self._remember_process(process)
        target_key = (connection.hook, connection.protocol, connection.dest_ip, connection.dest_port)
        target = self._targets.get(target_key) or self._remember_target(target_key)
        rest_key = (
            connection.src_ip,
            connection.result,
            connection.direction,
            connection.ifname,
            connection.netns,
            connection.kernel_socket,
            connection.thread,
            connection.attribution,
            connection.dest_names,
            connection.verdict,
            connection.dest_name_sources,
            connection.dest_name_ages,
            connection.dest_names_missing,
        )
        rest = self._rest.get(rest_key) or self._remember_rest(rest_key, connection)
        own = f',"srcport":"{connection.src_port}"' if connection.src_port is not None else ""
        if connection.protocol != "tcp" or connection.count != 1:
            own += f',"count":"{connection.count}"'
        return Text(
            target.labels + by.labels + rest.labels, target.metadata + by.metadata + rest.metadata + own
        )

    def _remember_process(self, process: Process) -> Text:
        parent = process.parent
        values = (
            _name(process),
            process.pid,
            process.user,
            process.uid,
            process.exe,
            self._redactor.text(process.cmdline),
            self._redactor.text(process.script),
            _name(parent),
            _name(parent.parent if parent is not None else None),
            process.unit,
            process.user_unit,
            process.slice,
            process.login_session,
            process.container,
            process.container_name,
            process.container_engine,
            process.pod,
            _flag(process.kernel),
        )
        return keep(self._processes, id(process), (process, self._text(PROCESS, values)))[1]

    def _remember_target(self, key: tuple[_Value, ...]) -> Text:
        return keep(self._targets, key, self._text(TARGET, key))

    def _remember_rest(self, key: tuple[object, ...], connection: Connection) -> Text:
        values = (
            connection.src_ip,
            connection.result,
            None if connection.direction == "out" else connection.direction,
            connection.ifname,
            connection.netns,
            _flag(connection.kernel_socket),
            connection.thread,
            connection.attribution,
            ",".join(connection.dest_names),
            ",".join(connection.dest_name_sources),
            ",".join(map(str, connection.dest_name_ages)),
            connection.dest_names_missing,
            connection.verdict,
        )
        return keep(self._rest, key, self._text(REST, values))

    def _text(self, names: tuple[str, ...], values: Iterable[_Value]) -> Text:
        texts = ["", ""]
        for name, value in zip(names, values, strict=True):
            if value is not None and value != "":
                texts[name not in self._as_labels] += f',"{name}":{quoted(str(value))}'
        return Text(*texts)


def quoted(text: str) -> str:
    """A JSON string of the text, made printable and cut."""
    whole = display(text).encode()
    return msgspec.json.encode(whole[:VALUE_BYTES].decode(errors="ignore")).decode()


def _name(process: Process | None) -> str | None:
    if process is None:
        return None
    return process.comm if process.name is None else process.name


def _flag(value: bool) -> str | None:
    return "true" if value else None

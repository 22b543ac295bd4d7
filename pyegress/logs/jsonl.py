# SPDX-License-Identifier: MIT
r"""Connections <-> JSON, one object a line: the record's own names, and what is not known is absent.

`ts` is RFC 3339 in UTC with nanoseconds. A flag is absent where it is false. All text is as `escape.display` shows it
(a newline as the two characters `\n`, a backslash as two, a byte 0xff that is not UTF-8 as the six of `\udcff`), so a
lone surrogate, which JSON can't hold, needs no rule of its own, and what jq prints raw is safe on a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from pyegress.escape import display
from pyegress.logs.addresses import ip_version
from pyegress.logs.kept import Kept
from pyegress.logs.timestamp import Clock, TimeReader
from pyegress.logs.unescape import undisplayed
from pyegress.record import Connection, Process
from pyegress.redact import Redactor

P = TypeVar("P")
V = TypeVar("V")

Text = str | UnsetType
Number = Annotated[int, Meta(ge=0)] | UnsetType
Port = Annotated[int, Meta(ge=0, le=65535)]
Flag = bool | UnsetType

_MIB = 1 << 20
_CACHED = 8192
_MOST_ANCESTORS = 64
"""More than any input finds; rules and outputs go through all of them."""


class ProcessLine(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`Process` as JSON has it."""

    pid: Number = UNSET
    start_ns: Number = UNSET
    comm: Text = UNSET
    name: Text = UNSET
    exe: Text = UNSET
    cmdline: Text = UNSET
    cmdline_cut: Flag = UNSET
    script: Text = UNSET
    uid: Number = UNSET
    gid: Number = UNSET
    user: Text = UNSET
    loginuid: Number = UNSET
    session_pid: Number = UNSET
    session_name: Text = UNSET
    cgroup_id: Number = UNSET
    cgroup: Text = UNSET
    unit: Text = UNSET
    user_unit: Text = UNSET
    slice: Text = UNSET
    login_session: Text = UNSET
    container: Text = UNSET
    container_engine: Text = UNSET
    container_name: Text = UNSET
    pod: Text = UNSET
    netns: Number = UNSET
    pidns: Number = UNSET
    kernel: Flag = UNSET
    attribution: str
    parent: ProcessLine | UnsetType = UNSET


class Line(msgspec.Struct, Generic[P], frozen=True, gc=False, kw_only=True):
    """`Connection` as JSON has it."""

    ts: Text = UNSET
    hook: Annotated[str, Meta(min_length=1)]
    protocol: Annotated[str, Meta(min_length=1)]
    ip_version: Literal[4, 6]
    dest_ip: str
    dest_port: Port | UnsetType = UNSET
    src_ip: Text = UNSET
    src_port: Port | UnsetType = UNSET
    count: Annotated[int, Meta(ge=1)]
    result: Text = UNSET
    direction: str
    netns: Number = UNSET
    ifname: Text = UNSET
    process: P | UnsetType = UNSET
    tid: Number = UNSET
    thread: Text = UNSET
    attribution: Text = UNSET
    kernel_socket: Flag = UNSET
    socket_uid: Number = UNSET
    dest_names: tuple[str, ...] | UnsetType = UNSET
    verdict: Text = UNSET


_ARGUMENTS = ("cmdline", "script")
_OWN = tuple(name for name in ProcessLine.__struct_fields__ if name != "parent")


def _known(value: V | None) -> V | UnsetType:
    return UNSET if value is None else value


def _shown(text: str | None) -> Text:
    return UNSET if text is None else display(text)


def _given(value: V | UnsetType) -> V | None:
    return None if value is UNSET else value


def _plain(text: Text) -> str | None:
    return None if text is UNSET else undisplayed(text)


class Encoder:
    """Connections -> lines; for one thread. A process that comes again is encoded once."""

    def __init__(self, redact: bool = False) -> None:
        """`redact`: hide what looks like a secret in arguments."""
        self._redactor = Redactor(redact)
        self._clock = Clock()
        self._encoder = msgspec.json.Encoder()
        # The Process is kept beside what was made of it, so that its id can't become another's while it is a key.
        self._lines: dict[int, tuple[Process, ProcessLine]] = {}
        self._texts: dict[int, tuple[Process, Raw]] = {}

    def lines(self, batch: Sequence[Connection]) -> bytes:
        """Whole lines."""
        return self._encoder.encode_lines([self._line(connection) for connection in batch])

    def _line(self, connection: Connection) -> Line[Raw]:
        process = connection.process
        by: Raw | UnsetType = UNSET
        if process is not None:
            kept = self._texts.get(id(process))
            by = self._remember(process) if kept is None else kept[1]
        names = connection.dest_names
        ts = connection.ts
        return Line(
            ts=self._clock.text(ts) if ts else UNSET,
            hook=display(connection.hook),
            protocol=display(connection.protocol),
            ip_version=4 if connection.ip_version == 4 else 6,
            dest_ip=display(connection.dest_ip),
            dest_port=_known(connection.dest_port),
            src_ip=_shown(connection.src_ip),
            src_port=_known(connection.src_port),
            count=connection.count,
            result=_shown(connection.result),
            direction=display(connection.direction),
            netns=_known(connection.netns),
            ifname=_shown(connection.ifname),
            process=by,
            tid=_known(connection.tid),
            thread=_shown(connection.thread),
            attribution=_shown(connection.attribution),
            kernel_socket=connection.kernel_socket or UNSET,
            socket_uid=_known(connection.socket_uid),
            dest_names=tuple(map(display, names)) if names else UNSET,
            verdict=_shown(connection.verdict),
        )

    def _remember(self, process: Process) -> Raw:
        if len(self._texts) >= _CACHED:
            self._texts.clear()
        text = Raw(self._encoder.encode(self._process_line(process)))
        self._texts[id(process)] = process, text
        return text

    def _process_line(self, process: Process) -> ProcessLine:
        kept = self._lines.get(id(process))
        if kept is not None:
            return kept[1]
        fields: dict[str, Any] = {}
        for name in _OWN:
            value = getattr(process, name)
            if name in _ARGUMENTS:
                value = self._redactor.text(value)
            if value is not None and value is not False:
                fields[name] = display(value) if isinstance(value, str) else value
        if process.parent is not None:
            fields["parent"] = self._process_line(process.parent)
        if len(self._lines) >= _CACHED:
            self._lines.clear()
        line = ProcessLine(**fields)
        self._lines[id(process)] = process, line
        return line


class Decoder:
    """Lines -> connections; for one thread. What comes again is the same object, as long as the memory for it lasts."""

    def __init__(self) -> None:
        self._time = TimeReader()
        self._line = msgspec.json.Decoder(Line[Raw])
        self._process_line = msgspec.json.Decoder(ProcessLine)
        self._processes: Kept[bytes, Process] = Kept(32 * _MIB, 2000)
        self._versions: Kept[str, int] = Kept(16 * _MIB, 200)

    def connection(self, line: bytes) -> Connection:
        """What a line was written for; ValueError where it is no whole record."""
        try:
            found = self._line.decode(line)
            process = None if found.process is UNSET else self._process(bytes(found.process))
        except RecursionError:
            raise ValueError("too many objects in one another") from None
        address = found.dest_ip
        version = self._versions.get(address) or self._versions.keep(
            address, ip_version(address), len(address)
        )
        if version != found.ip_version:
            raise ValueError("an address of the other version")
        names = found.dest_names
        return Connection(
            0 if found.ts is UNSET else self._time.ns(found.ts),
            undisplayed(found.hook),
            undisplayed(found.protocol),
            version,
            address,
            _given(found.dest_port),
            _plain(found.src_ip),
            _given(found.src_port),
            found.count,
            _plain(found.result),
            undisplayed(found.direction),
            _given(found.netns),
            _plain(found.ifname),
            process,
            _given(found.tid),
            _plain(found.thread),
            _plain(found.attribution),
            found.kernel_socket is True,
            _given(found.socket_uid),
            () if names is UNSET else tuple(map(undisplayed, names)),
            _plain(found.verdict),
        )

    def _process(self, text: bytes) -> Process:
        kept = self._processes.get(text)
        if kept is not None:
            return kept
        generations: list[ProcessLine] = []
        line: ProcessLine | UnsetType = self._process_line.decode(text)
        while line is not UNSET:
            generations.append(line)
            line = line.parent
        if len(generations) > _MOST_ANCESTORS:
            raise ValueError("too many ancestors")
        process = Process(**_fields(generations.pop()))
        for line in reversed(generations):
            process = Process(**_fields(line), parent=process)
        return self._processes.keep(text, process, len(text))


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A connection as `pyegress run -o json` writes it, one a line",
        **msgspec.json.schema(Line[ProcessLine]),
    }


def _fields(line: ProcessLine) -> dict[str, Any]:
    given = ((name, getattr(line, name)) for name in _OWN)
    return {
        name: undisplayed(value) if isinstance(value, str) else value
        for name, value in given
        if value is not UNSET
    }

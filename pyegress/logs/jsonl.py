# SPDX-License-Identifier: MIT
r"""Connections <-> JSON, one object a line: the record's own names, and what is not known is absent.

`ts` is RFC 3339 in UTC with nanoseconds. A flag is absent where it is false. All text is as `escape.display` shows it
(a newline as the two characters `\n`, a backslash as two, a byte 0xff that is not UTF-8 as the six of `\udcff`), so a
lone surrogate, which JSON can't hold, needs no rule of its own, and what jq prints raw is safe on a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from pyegress.escape import display
from pyegress.logs.addresses import ip_version
from pyegress.logs.kept import Kept
from pyegress.logs.repeats import Shape
from pyegress.logs.timestamp import Clock, TimeReader
from pyegress.logs.unescape import undisplayed
from pyegress.logs.wording import field_texts
from pyegress.record import Connection, Process
from pyegress.redact import Redactor
from pyegress.remember import keep

P = TypeVar("P")
V = TypeVar("V")

Text = str | UnsetType
Number = Annotated[int, Meta(ge=0)] | UnsetType
Port = Annotated[int, Meta(ge=0, le=65535)]
Flag = bool | UnsetType

_TIME = "Time of the event, RFC 3339 in UTC with nanoseconds; absent where a capture has none."
_MIB = 1 << 20
_PROCESSES_KEPT = 1024
"""Their texts are long: some hundred bytes for each of their ancestors, and more."""
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

    ts: Annotated[str, Meta(description=_TIME)] | UnsetType = UNSET
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
    dest_name_sources: tuple[str, ...] | UnsetType = UNSET
    dest_name_ages: tuple[Annotated[int, Meta(ge=0)], ...] | UnsetType = UNSET
    dest_names_missing: Text = UNSET
    verdict: Text = UNSET


_Names = tuple[str, ...]
_Target = tuple[str, str, int, str, int | None, _Names, _Names, tuple[int, ...], str | None, str | None]
_Rest = tuple[
    int, str | None, str, int | None, str | None, int | None, str | None, str | None, bool, int | None
]
_ARGUMENTS = ("cmdline", "script")
_OWN = tuple(name for name in ProcessLine.__struct_fields__ if name != "parent")


def _shown(text: str | None) -> Text:
    return UNSET if text is None else display(text)


def _given(value: V | UnsetType) -> V | None:
    return None if value is UNSET else value


def _plain(text: Text) -> str | None:
    return None if text is UNSET else undisplayed(text)


class Encoder:
    """Connections -> lines; for one thread. What comes again, a process or a destination, is encoded once."""

    def __init__(self, redact: bool = False) -> None:
        """`redact`: hide what looks like a secret in arguments."""
        self._redactor = Redactor(redact)
        self._clock = Clock()
        self._encoder = msgspec.json.Encoder()
        # The Process is kept beside what was made of it, so that its id can't become another's while it is in a key.
        self._lines: dict[int, tuple[Process, ProcessLine]] = {}
        self._targets: dict[_Target, tuple[str, str]] = {}
        self._sources: dict[str | None, str] = {}
        self._rest: dict[_Rest, tuple[Process | None, str]] = {}

    def lines(self, batch: Sequence[Connection]) -> bytes:
        """Whole lines."""
        clock, targets, sources, rest = self._clock.text, self._targets, self._sources, self._rest
        pieces: list[str] = []
        for connection in batch:
            target_key = (
                connection.hook,
                connection.protocol,
                connection.ip_version,
                connection.dest_ip,
                connection.dest_port,
                connection.dest_names,
                connection.dest_name_sources,
                connection.dest_name_ages,
                connection.dest_names_missing,
                connection.verdict,
            )
            target, end = targets.get(target_key) or self._remember_target(target_key)
            process = connection.process
            rest_key = (
                id(process),
                connection.result,
                connection.direction,
                connection.netns,
                connection.ifname,
                connection.tid,
                connection.thread,
                connection.attribution,
                connection.kernel_socket,
                connection.socket_uid,
            )
            _, by = rest.get(rest_key) or self._remember_rest(rest_key, process)
            src_ip, src_port, ts = connection.src_ip, connection.src_port, connection.ts
            source = sources.get(src_ip) or self._remember_source(src_ip)
            port = "" if src_port is None else f'"src_port":{src_port},'
            count = f'"count":{connection.count},'
            pieces += ('{"ts":"', clock(ts), '",') if ts else ("{",)
            pieces += (target, source, port, count, by, end)
        return "".join(pieces).encode()

    def _fields(self, **fields: Any) -> str:
        """Those that are known, as they stand in an object, each with a comma after it."""
        known = {name: value for name, value in fields.items() if value is not None and value is not UNSET}
        text = self._encoder.encode(known).decode()
        return f"{text[1:-1]}," if known else ""

    def _remember_target(self, key: _Target) -> tuple[str, str]:
        hook, protocol, ip_version, dest_ip, dest_port, names, sources, ages, missing, verdict = key
        target = self._fields(
            hook=display(hook),
            protocol=display(protocol),
            ip_version=4 if ip_version == 4 else 6,
            dest_ip=display(dest_ip),
            dest_port=dest_port,
        )
        told = self._fields(
            dest_names=tuple(map(display, names)) or UNSET,
            dest_name_sources=tuple(map(display, sources)) or UNSET,
            dest_name_ages=ages or UNSET,
            dest_names_missing=_shown(missing),
            verdict=_shown(verdict),
        )
        return keep(self._targets, key, (target, f",{told[:-1]}}}\n" if told else "}\n"))

    def _remember_source(self, src_ip: str | None) -> str:
        return keep(self._sources, src_ip, self._fields(src_ip=_shown(src_ip)))

    def _remember_rest(self, key: _Rest, process: Process | None) -> tuple[Process | None, str]:
        _, result, direction, netns, ifname, tid, thread, attribution, kernel_socket, socket_uid = key
        text = self._fields(
            result=_shown(result),
            direction=display(direction),
            netns=netns,
            ifname=_shown(ifname),
            process=None if process is None else self._process_line(process),
            tid=tid,
            thread=_shown(thread),
            attribution=_shown(attribution),
            kernel_socket=kernel_socket or UNSET,
            socket_uid=socket_uid,
        )
        return keep(self._rest, key, (process, text[:-1]), _PROCESSES_KEPT)

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
        return keep(self._lines, id(process), (process, ProcessLine(**fields)), _PROCESSES_KEPT)[1]


class Decoder:
    """Lines -> connections; for one thread. What comes again is the same object, as long as the memory for it lasts."""

    shape: ClassVar[Shape] = Shape(
        before_time=b'{"ts":"',
        behind_time=b'Z",',
        target=re.compile(
            rb'"hook":"[^"\\]+","protocol":"[^"\\]+","ip_version":[46],"dest_ip":"[^"\\]+"(?:,"dest_port":[0-9]+)?'
        ),
        target_end=b',"src_ip":',
        target_bytes=0,
        other_target=b'"hook":"other","protocol":"tcp","ip_version":4,"dest_ip":"203.0.113.250","dest_port":61999',
        port=b',"src_port":',
        count=b',"count":',
        end=b",",
    )

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
            () if found.dest_name_sources is UNSET else tuple(map(undisplayed, found.dest_name_sources)),
            () if found.dest_name_ages is UNSET else found.dest_name_ages,
            _plain(found.dest_names_missing),
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
    found = msgspec.json.schema(Line[ProcessLine])
    for name, texts in ("Line_ProcessLine_", field_texts(Connection)), ("ProcessLine", field_texts(Process)):
        for key, property in found["$defs"][name]["properties"].items():
            property.setdefault("description", texts[key])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A connection as `pyegress run -o json` writes it, one a line",
        "description": "What is not known (None in the texts below), and a flag that is false, is absent.",
        **found,
    }


def _fields(line: ProcessLine) -> dict[str, Any]:
    given = ((name, getattr(line, name)) for name in _OWN)
    return {
        name: undisplayed(value) if isinstance(value, str) else value
        for name, value in given
        if value is not UNSET
    }

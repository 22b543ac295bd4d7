# SPDX-License-Identifier: MIT
"""One logfmt line per connection."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated, ClassVar, TypeVar

from msgspec import Meta

from pyegress import plugin
from pyegress.escape import display
from pyegress.outputs.filesink import FileOutput
from pyegress.plugin import Batch
from pyegress.record import Process
from pyegress.redact import RedactOptions, Redactor

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
_SECOND = 1_000_000_000
_LAST = 253_402_300_799_999_999_999
"""RFC 3339 ends with the year 9999."""
_CACHED = 8192
_PART = 256

_K = TypeVar("_K")
_V = TypeVar("_V")
_Pair = tuple[str, str | int | None]
_Target = tuple[str, str, str, int | None, int]
_Rest = tuple[
    str | None,
    int | None,
    str | None,
    str,
    bool,
    int | None,
    str | None,
    int | None,
    str | None,
    tuple[str, ...],
    str | None,
]


class LogfmtOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of the logfmt output."""

    file: Annotated[str, Meta(description="file to append to (0640, reopened on SIGHUP), - for stdout")] = "-"


def quoted(text: str) -> str:
    """A value: bare if plain ASCII, otherwise in double quotes with `display`'s escapes and `\\"`."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + display(text).replace('"', '\\"') + '"'


def _name(process: Process) -> str | None:
    return process.comm if process.name is None else process.name


def _flag(value: bool) -> str | None:
    return "true" if value else None


def _fields(pairs: Sequence[_Pair]) -> str:
    known = [(key, value) for key, value in pairs if value is not None]
    return "".join(f" {key}={value if isinstance(value, int) else quoted(value)}" for key, value in known)


def _keep(cache: dict[_K, _V], key: _K, value: _V) -> _V:
    if len(cache) >= _CACHED:
        cache.clear()
    cache[key] = value
    return value


class Logfmt(FileOutput):
    """Writes whole lines, some hundred at a time."""

    name: ClassVar[str] = "logfmt"
    summary: ClassVar[str] = "one logfmt line per connection, to stdout or a file"
    Options: ClassVar[type[plugin.Options]] = LogfmtOptions

    def __init__(self, options: LogfmtOptions) -> None:
        super().__init__(options.file)
        self._redactor = Redactor(options.redact)
        self._second = 0
        self._clock = "1970-01-01T00:00:00."
        # The Process is kept beside its text, so that its id can't become another's while it is a key.
        self._processes: dict[int, tuple[Process, str, str, int | None]] = {}
        self._targets: dict[_Target, str] = {}
        self._sources: dict[str, str] = {}
        self._rest: dict[_Rest, tuple[str, str]] = {}

    def write(self, batch: Batch) -> None:
        # Pieces this small stay in the CPU cache; the allocator maps and unmaps bigger ones each time, which
        # costs as much as the formatting.
        for at in range(0, len(batch), _PART):
            self.put(self.lines(batch[at : at + _PART]))

    def lines(self, batch: Batch) -> str:
        """The text of a batch."""
        processes, targets, rest, sources = self._processes, self._targets, self._rest, self._sources
        second, clock = self._second, self._clock
        lines = []
        for connection in batch:
            ts = connection.ts
            if not 0 <= ts - second < _SECOND:
                ts = min(max(ts, 0), _LAST)
                second = ts - ts % _SECOND
                clock = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second // _SECOND))

            protocol = connection.protocol
            target_key = (
                connection.hook,
                protocol,
                connection.dest_ip,
                connection.dest_port,
                connection.ip_version,
            )
            target = targets.get(target_key) or self._remember_target(target_key)

            process = connection.process
            if process is None:
                by = owner = ""
                proc_netns = None
            else:
                _, by, owner, proc_netns = processes.get(id(process)) or self._remember_process(process)

            src_ip, src_port = connection.src_ip, connection.src_port
            source = sources.get(src_ip) or self._remember_source(src_ip) if src_ip else ""
            port = f" src_port={src_port}" if src_port is not None else ""
            if protocol != "tcp":
                port += f" count={connection.count}"

            netns = connection.netns
            rest_key = (
                connection.result,
                netns,
                connection.ifname,
                connection.direction,
                connection.kernel_socket,
                connection.socket_uid,
                connection.thread,
                None if proc_netns == netns else proc_netns,
                connection.attribution,
                connection.dest_names,
                connection.verdict,
            )
            before, after = rest.get(rest_key) or self._remember_rest(rest_key)
            nanoseconds = str(ts - second + _SECOND)[1:]
            line = f"ts={clock}{nanoseconds}Z{target}{by}{source}{port}{before}{owner}{after}\n"
            lines.append(line if connection.ts else line.partition(" ")[2])
        self._second, self._clock = second, clock
        return "".join(lines)

    def _remember_process(self, process: Process) -> tuple[Process, str, str, int | None]:
        by: list[_Pair] = [
            ("proc_name", _name(process)),
            ("proc_pid", process.pid),
            ("proc_user", process.user),
            ("proc_cmdline", self._redactor.text(process.cmdline)),
        ]
        exes: list[_Pair] = []
        ancestor = process.parent
        for role in ("parent", "grandparent"):
            if ancestor is None:
                break
            by += [
                (f"{role}_name", _name(ancestor)),
                (f"{role}_pid", ancestor.pid),
                (f"{role}_user", ancestor.user),
            ]
            exes.append((f"{role}_exe", ancestor.exe))
            ancestor = ancestor.parent
        # To be read, not parsed: a name may itself hold commas and parentheses.
        older = []
        while ancestor is not None:
            older.append(f"{_name(ancestor) or ''}({ancestor.pid})")
            ancestor = ancestor.parent
        owner: list[_Pair] = [
            ("proc_uid", process.uid),
            ("proc_gid", process.gid),
            ("proc_loginuid", process.loginuid),
            ("proc_session_pid", process.session_pid),
            ("proc_session_name", process.session_name),
            ("proc_exe", process.exe),
            ("proc_script", self._redactor.text(process.script)),
            ("proc_cmdline_cut", _flag(process.cmdline_cut)),
            ("proc_kernel", _flag(process.kernel)),
            *exes,
            ("ancestors", ",".join(older) or None),
            ("proc_cgroup_id", process.cgroup_id),
            ("proc_cgroup", process.cgroup),
            ("unit", process.unit),
            ("user_unit", process.user_unit),
            ("slice", process.slice),
            ("login_session", process.login_session),
            ("container", process.container),
            ("container_name", process.container_name),
            ("container_engine", process.container_engine),
            ("pod", process.pod),
            ("proc_pidns", process.pidns),
        ]
        return _keep(self._processes, id(process), (process, _fields(by), _fields(owner), process.netns))

    def _remember_source(self, src_ip: str) -> str:
        return _keep(self._sources, src_ip, f" src_ip={quoted(src_ip)}")

    def _remember_target(self, key: _Target) -> str:
        names = ("hook", "protocol", "dest_ip", "dest_port", "ip_version")
        return _keep(self._targets, key, _fields(list(zip(names, key, strict=True))))

    def _remember_rest(self, key: _Rest) -> tuple[str, str]:
        (
            result,
            netns,
            ifname,
            direction,
            kernel_socket,
            socket_uid,
            thread,
            proc_netns,
            attribution,
            dest_names,
            verdict,
        ) = key
        before: list[_Pair] = [
            ("result", result),
            ("netns", netns),
            ("ifname", ifname),
            ("direction", None if direction == "out" else direction),
            ("kernel_socket", _flag(kernel_socket)),
            ("socket_uid", socket_uid),
            ("proc_thread", thread),
        ]
        after: list[_Pair] = [
            ("proc_netns", proc_netns),
            ("attribution", attribution),
            ("dest_names", ",".join(dest_names) or None),
            ("verdict", verdict),
        ]
        return _keep(self._rest, key, (_fields(before), _fields(after)))

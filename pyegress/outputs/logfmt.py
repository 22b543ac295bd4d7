# SPDX-License-Identifier: MIT
"""One logfmt line per connection."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.escape import display
from pyegress.outputs.filesink import FileOutput
from pyegress.plugin import Batch
from pyegress.record import Process
from pyegress.redact import RedactOptions, Redactor
from pyegress.remember import keep

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
_SECOND = 1_000_000_000
_LAST = 253_402_300_799_999_999_999
"""RFC 3339 ends with the year 9999."""
_PROCESSES_KEPT = 2048
"""Their texts are long."""
_PART = 128

_Pair = tuple[str, str | int | None]
_Names = tuple[str, ...]
_Target = tuple[str, str, str, int | None, int, _Names, _Names, tuple[int, ...], str | None, str | None]
_Rest = tuple[int, str | None, int | None, str | None, str, bool, int | None, str | None, str | None]


class LogfmtOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of the logfmt output."""

    file: Annotated[str, Meta(description="file to append to (0640, reopened on SIGHUP), - for stdout")] = "-"


def quoted(text: str) -> str:
    """A value: bare if plain ASCII, otherwise in double quotes with `display`'s escapes and `\\"`."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + display(text).replace('"', '\\"') + '"'


_word = lru_cache(256)(quoted)
"""The same for what has few values."""


def _name(process: Process) -> str | None:
    return process.comm if process.name is None else process.name


def _flag(value: bool) -> str | None:
    return "true" if value else None


def _fields(pairs: Sequence[_Pair]) -> str:
    known = [(key, value) for key, value in pairs if value is not None]
    return "".join(f" {key}={value if isinstance(value, int) else quoted(value)}" for key, value in known)


class Logfmt(FileOutput):
    """Writes whole lines, some at a time."""

    name: ClassVar[str] = "logfmt"
    summary: ClassVar[str] = "one logfmt line per connection, to stdout or a file"
    Options: ClassVar[type[plugin.Options]] = LogfmtOptions

    def __init__(self, options: LogfmtOptions) -> None:
        super().__init__(options.file)
        self._redactor = Redactor(options.redact)
        self._second = 0
        self._clock = "ts=1970-01-01T00:00:00."
        self._targets: dict[_Target, tuple[str, str]] = {}
        self._sources: dict[str, str] = {}
        # The Process is kept beside its text, so that its id can't become another's while it is in a key.
        self._rest: dict[_Rest, tuple[Process | None, str, str]] = {}

    def write(self, batch: Batch) -> None:
        # Below 128 KiB, from which on the allocator may map and unmap memory each time: that costs more than the
        # formatting.
        for at in range(0, len(batch), _PART):
            self.put(self.lines(batch[at : at + _PART]).encode())

    def lines(self, batch: Batch) -> str:
        """The text of a batch."""
        targets, rest, sources = self._targets, self._rest, self._sources
        second, clock = self._second, self._clock
        pieces: list[str] = []
        for connection in batch:
            ts = connection.ts
            if not 0 <= ts - second < _SECOND:
                ts = min(max(ts, 0), _LAST)
                second = ts - ts % _SECOND
                clock = time.strftime("ts=%Y-%m-%dT%H:%M:%S.", time.gmtime(second // _SECOND))

            protocol = connection.protocol
            target_key = (
                connection.hook,
                protocol,
                connection.dest_ip,
                connection.dest_port,
                connection.ip_version,
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
                connection.netns,
                connection.ifname,
                connection.direction,
                connection.kernel_socket,
                connection.socket_uid,
                connection.thread,
                connection.attribution,
            )
            _, by, owner = rest.get(rest_key) or self._remember_rest(rest_key, process)

            src_ip, src_port = connection.src_ip, connection.src_port
            source = sources.get(src_ip) or self._remember_source(src_ip) if src_ip else ""
            port = f" src_port={src_port}" if src_port is not None else ""
            if protocol != "tcp" or connection.count != 1:
                port += f" count={connection.count}"

            # Joined once for the whole batch: a string for each line would be written twice.
            if connection.ts:
                pieces += (clock, str(ts - second + _SECOND)[1:], "Z ", target, by, source, port, owner, end)
            else:
                pieces += (target, by, source, port, owner, end)
        self._second, self._clock = second, clock
        return "".join(pieces)

    def _remember_source(self, src_ip: str) -> str:
        return keep(self._sources, src_ip, f" src_ip={quoted(src_ip)}")

    def _remember_target(self, key: _Target) -> tuple[str, str]:
        # Most are new where many are scanned, so that this must not cost much.
        hook, protocol, dest_ip, dest_port, ip_version, names, sources, ages, missing, verdict = key
        port = "" if dest_port is None else f" dest_port={dest_port}"
        kind = f"hook={_word(hook)} protocol={_word(protocol)}"
        text = f"{kind} dest_ip={quoted(dest_ip)}{port} ip_version={ip_version}"
        end = "\n"
        if names or sources or ages or missing is not None or verdict is not None:
            told: list[_Pair] = [
                ("dest_names", ",".join(names) or None),
                ("dest_name_sources", ",".join(sources) or None),
                ("dest_name_ages", ",".join(map(str, ages)) or None),
                ("dest_names_missing", missing),
                ("verdict", verdict),
            ]
            end = f"{_fields(told)}\n"
        return keep(self._targets, key, (text, end))

    def _remember_rest(self, key: _Rest, process: Process | None) -> tuple[Process | None, str, str]:
        _, result, netns, ifname, direction, kernel_socket, socket_uid, thread, attribution = key
        by = owner = ""
        proc_netns = None
        if process is not None:
            by, owner, proc_netns = self._process_texts(process)
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
            ("proc_netns", None if proc_netns == netns else proc_netns),
            ("attribution", attribution),
        ]
        return keep(
            self._rest, key, (process, by, f"{_fields(before)}{owner}{_fields(after)}"), _PROCESSES_KEPT
        )

    def _process_texts(self, process: Process) -> tuple[str, str, int | None]:
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
        return _fields(by), _fields(owner), process.netns

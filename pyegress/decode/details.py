# SPDX-License-Identifier: MIT
"""Records that come once for a program or a cgroup -> Details; what every event says of its process -> Seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pyegress.decode.layout import layout_of
from pyegress.record import CgroupPath, Details, Identity, Seen
from pyegress.remember import keep

T = TypeVar("T")

IDENTITY_FIELDS = ("start_ns", "tgid", "exec_id")
PROCESS_FIELDS = ("identity", "cgroup_id", "uid", "gid", "flags", "pad", "comm")
DETAILS_FIELDS = (
    "kind",
    "flags",
    "process",
    "parent",
    "arg_start",
    "local_pid",
    "session_pid",
    "loginuid",
    "netns",
    "pidns",
    "path_bytes",
    "args_bytes",
    "pad",
    "session_comm",
)
_NO_LOGIN = 0xFFFFFFFF
"""(uid_t)-1: nobody logged in to start it."""


def text(comm: bytes) -> str:
    """A NUL-terminated name."""
    return comm.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


class _Shared(dict[Any, Any]):
    """What many programs have in common is one object: an hour of short-lived ones begins with one path and parent."""

    def __call__(self, value: T) -> T:
        if value not in self:
            keep(self, value, value)
        shared: T = self[value]
        return shared


class SeenDecoder:
    """Decodes `struct egress_process`."""

    def __init__(self, ffi: Any) -> None:
        self._shared = _Shared()
        self._kernel_thread = ffi.typeof("enum egress_process_flags").relements["EGRESS_KERNEL_THREAD"]
        self._unpack = layout_of(ffi, "egress_process", PROCESS_FIELDS).unpack.unpack
        self._identity = layout_of(ffi, "egress_identity", IDENTITY_FIELDS).unpack.unpack

    def decode(self, raw: bytes) -> Seen:
        """The struct's bytes as Seen."""
        identity, cgroup_id, uid, gid, flags, _, comm = self._unpack(raw)
        shared, kernel = self._shared, bool(flags & self._kernel_thread)
        return Seen(
            self.identity(identity), shared(text(comm)), shared(uid), shared(gid), shared(cgroup_id), kernel
        )

    def identity(self, raw: bytes) -> Identity:
        """`struct egress_identity`."""
        start_ns, tgid, exec_id = self._identity(raw)
        return Identity(tgid, start_ns, exec_id)


class DetailsDecoder:
    """Decodes what `egress_details` of the loader gives."""

    def __init__(self, ffi: Any) -> None:
        self._shared = _Shared()
        layout = layout_of(ffi, "egress_details", DETAILS_FIELDS)
        self._unpack_from = layout.unpack.unpack_from
        self._head_bytes = layout.unpack.size
        self._seen = SeenDecoder(ffi)
        flags = ffi.typeof("enum egress_details_flags").relements
        self._has_path, self._has_args = flags["EGRESS_HAS_PATH"], flags["EGRESS_HAS_ARGS"]
        self._args_cut, self._fault = flags["EGRESS_ARGS_CUT"], flags["EGRESS_FAULT"]
        self._of_cgroup = ffi.typeof("enum egress_details_kind").relements["EGRESS_CGROUP_DETAILS"]

    def decode(self, records: memoryview) -> Iterator[Details | CgroupPath]:
        """Each record of a buffer, in order."""
        at = 0
        while at < len(records):
            (
                kind,
                flags,
                process,
                parent,
                arg_start,
                local_pid,
                session_pid,
                loginuid,
                netns,
                pidns,
                path_bytes,
                args_bytes,
                _,
                session_comm,
            ) = self._unpack_from(records, at)
            path_at = at + self._head_bytes
            args_at = path_at + path_bytes
            end = args_at + args_bytes
            path = bytes(records[path_at:args_at])
            at = end + -end % 8
            seen = self._seen.decode(process)
            if kind == self._of_cgroup:
                yield CgroupPath(seen.cgroup_id, _joined(path))
                continue
            above, shared = self._seen.identity(parent), self._shared
            yield Details(
                seen=seen,
                parent=shared(above) if above.tgid else None,
                local_pid=local_pid or None,
                exe=shared(_joined(path)) if flags & self._has_path else None,
                args=bytes(records[args_at:end]) if flags & self._has_args else None,
                args_cut=bool(flags & self._args_cut),
                fault=bool(flags & self._fault),
                arg_start=arg_start,
                session_pid=shared(session_pid) or None,
                session_comm=shared(text(session_comm)) or None,
                loginuid=None if loginuid == _NO_LOGIN else shared(loginuid),
                netns=shared(netns) or None,
                pidns=shared(pidns) or None,
            )


def _joined(path: bytes) -> str:
    """From the last component first, each ended by a slash, to a path."""
    names = path.split(b"/")[:-1]
    return "/" + b"/".join(reversed(names)).decode("utf-8", "surrogateescape")

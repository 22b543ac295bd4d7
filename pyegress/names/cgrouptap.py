# SPDX-License-Identifier: MIT
"""DNS of every socket on the host, and server names, by two BPF programs on the root of the cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyegress import kernel
from pyegress.decode.layout import layout_of
from pyegress.errors import UnsupportedError
from pyegress.names.segment import Segment, ends_of

RING_BYTES = 1 << 20
DNS_FIELDS = (
    "ts_ns",
    "socket",
    "tgid",
    "seq",
    "bytes",
    "used",
    "sport",
    "dport",
    "family",
    "protocol",
    "tcp_flags",
    "is_answer",
    "saddr",
    "daddr",
)
_ALIGNED = 8


class CgroupTap:
    """Attached from construction until `close`. Raises UnsupportedError with the cause. For one thread."""

    place = "cgroup"

    def __init__(self, hellos: bool = False) -> None:
        """`hellos`: what begins TLS and QUIC connections too."""
        from pyegress._native import NAMES_OBJECT, ffi, lib

        self._ffi, self._lib = ffi, lib
        self._layout = layout_of(ffi, "egress_dns", DNS_FIELDS).unpack
        self._size = ffi.new("size_t *")
        root = kernel.cgroup2_root()
        if root is None:
            raise UnsupportedError("no cgroup v2 is mounted")
        self._self = self._open(os.fsencode(NAMES_OBJECT), root, hellos)

    @property
    def lost(self) -> int:
        """What the full ring had no room for."""
        return int(self._lib.egress_tap_lost(self._self)) if self._self else 0

    def read(self) -> Iterator[Segment]:
        """What waits, in the order in which it passed; to be taken before the next call."""
        found = self._lib.egress_tap_read(self._self, self._size)
        view = memoryview(self._ffi.buffer(found, self._size[0]))
        unpack, head, at = self._layout.unpack_from, self._layout.size, 0
        while at < len(view):
            (ts, socket, tgid, seq, size, used, sport, dport, _, protocol, flags, is_answer, src, dst) = (
                unpack(view, at)
            )
            start = at + head
            ends = ends_of(bool(is_answer), protocol, src, sport, dst, dport, socket)
            yield Segment(
                ends, bool(is_answer), bytes(view[start : start + used]), ts, size > used, seq, flags, tgid
            )
            at = (start + used + _ALIGNED - 1) // _ALIGNED * _ALIGNED

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        if self._self:
            self._lib.egress_tap_close(self._self)
            self._self = None

    def _open(self, path: bytes, root: Path, hellos: bool) -> Any:
        cgroup = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        error = self._ffi.new("int *")
        try:
            # Some kernels don't let these programs know the process that runs.
            for tells_asker in (1, 0):
                found = self._lib.egress_tap_open(path, cgroup, RING_BYTES, tells_asker, hellos, error)
                if found:
                    return found
        finally:
            os.close(cgroup)
        log = self._ffi.string(self._lib.egress_log()).decode("utf-8", "replace")
        cause = kernel.cause({-error[0]}, log)
        raise UnsupportedError(cause or f"{kernel.errno_name(error[0])}")

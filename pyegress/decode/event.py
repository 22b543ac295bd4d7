# SPDX-License-Identifier: MIT
"""Records of the ring buffer -> Connection, a batch at a time."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pyegress.decode.address import Addresses
from pyegress.decode.details import SeenDecoder, text
from pyegress.decode.layout import layout_of
from pyegress.record import DETAILS_LOST, PACKET_PREFIX, Connection, Process, Seen

EVENT_FIELDS = (
    "ts_ns",
    "count",
    "tid",
    "netns",
    "ifindex",
    "result",
    "socket_uid",
    "sport",
    "dport",
    "family",
    "protocol",
    "flags",
    "pad",
    "saddr",
    "daddr",
    "thread_comm",
    "process",
)
_PROCESSES_KEPT = 2048
"""Fewer than programs are remembered: most have ended, and what comes again is put together from there."""
_THREADS_KEPT = 4096
_RESULT_KNOWN = 1
_KERNEL_SOCKET = 2
_PACKET_SOCKET = 4
_NO_OWNER = 0xFFFFFFFF
"""EGRESS_NO_OWNER: a macro, which cffi doesn't know."""


class _Protocols(dict[int, str]):
    """Names of IP protocols, the number as text where we have none."""

    def __missing__(self, number: int) -> str:
        return str(number)


PROTOCOLS = _Protocols({6: "tcp", 17: "udp"})


class _PacketProtocols(dict[int, str]):
    """The same, of what frames of AF_PACKET carry."""

    def __missing__(self, number: int) -> str:
        name = self[number] = PACKET_PREFIX + PROTOCOLS[number]
        return name


_PACKET_PROTOCOLS = _PacketProtocols()


class _Processes(OrderedDict[bytes, Process]):
    """`struct egress_process` as bytes -> the Process it stands for; the oldest are forgotten."""

    def __init__(self, ffi: Any, resolve: Callable[[Seen], Process]) -> None:
        super().__init__()
        self._seen = SeenDecoder(ffi)
        self._resolve = resolve

    def __missing__(self, raw: bytes) -> Process:
        process = self._resolve(self._seen.decode(raw))
        if process.attribution == DETAILS_LOST:
            return process
        if len(self) >= _PROCESSES_KEPT:
            self.popitem(last=False)
        self[raw] = process
        return process


class _Threads(dict[bytes, str | None]):
    """Names of threads, None for a main thread."""

    def __missing__(self, raw: bytes) -> str | None:
        if len(self) >= _THREADS_KEPT:
            self.clear()
        name = self[raw] = text(raw) or None
        return name


class EventDecoder:
    """Decodes `struct egress_event`s. `resolve` makes a Process once for each process the kernel names.

    `ifname` gives the name of an interface index in this host's network namespace, whose inode number is `netns`.
    """

    def __init__(
        self,
        ffi: Any,
        resolve: Callable[[Seen], Process],
        netns: int,
        ifname: Callable[[int], str | None],
    ) -> None:
        layout = layout_of(ffi, "egress_event", EVENT_FIELDS)
        self._iter_unpack = layout.unpack.iter_unpack
        self._processes = _Processes(ffi, resolve)
        self._addresses = Addresses()
        self._threads = _Threads()
        self._netns = netns
        self._ifname = ifname

    def decode(self, records: Any, epoch_offset_ns: int) -> list[Connection]:
        """Connections of a buffer of whole records; the offset turns boot time into time since the epoch."""
        addresses, processes, threads = self._addresses, self._processes, self._threads
        batch: list[Connection] = []
        append = batch.append
        for (
            ts_ns,
            count,
            tid,
            netns,
            ifindex,
            result,
            socket_uid,
            sport,
            dport,
            family,
            protocol,
            flags,
            _,
            saddr,
            daddr,
            thread_comm,
            raw_process,
        ) in self._iter_unpack(records):
            process = processes[raw_process]
            append(
                Connection(
                    ts_ns + epoch_offset_ns,
                    "ebpf",
                    _PACKET_PROTOCOLS[protocol] if flags & _PACKET_SOCKET else PROTOCOLS[protocol],
                    family,
                    addresses[daddr],  # type: ignore[arg-type]
                    dport or None,
                    addresses[saddr],
                    sport or None,
                    count,
                    _errno_name(result) if result and flags & _RESULT_KNOWN else None,
                    "out",
                    netns or None,
                    self._ifname(ifindex) if ifindex and netns == self._netns else None,
                    process,
                    tid,
                    threads[thread_comm],
                    process.attribution,
                    bool(flags & _KERNEL_SOCKET),
                    None if socket_uid == _NO_OWNER else socket_uid,
                )
            )
        return batch


def _errno_name(result: int) -> str:
    return errno.errorcode.get(-result, str(result))

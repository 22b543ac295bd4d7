# SPDX-License-Identifier: MIT
"""The one record that every input makes and every output takes.

Text that came from a process (names, command lines, paths) is `str` decoded with surrogateescape: it is
an attacker's choice, and only outputs turn it into safe text. A field that is not known is None, never a false
zero.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Process(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A process as it was when it connected. Parents are shared objects of the same kind."""

    pid: int
    """tgid in the initial pid namespace."""
    start_ns: int | None = None
    """Start of the process, ns since boot (CLOCK_BOOTTIME), to the clock tick when read from /proc."""
    comm: str | None = None
    """The kernel's name of the process: its main thread's comm, at most 15 bytes."""
    name: str | None = None
    """`comm`, or the full name where comm is cut; kernel threads without their worker number."""
    exe: str | None = None
    cmdline: str | None = None
    """Arguments joined by spaces."""
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    """Name of `uid`, or the number as text where it has none."""
    cgroup_id: int | None = None
    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    kernel: bool = False
    """A kernel thread: it has no executable and no command line."""
    parent: Process | None = None


class Seen(NamedTuple):
    """What the kernel knew of a process when it connected; times as in Process."""

    pid: int
    start_ns: int
    exec_id: int
    comm: str
    uid: int
    gid: int
    cgroup_id: int
    kernel: bool
    parent_pid: int
    parent_start_ns: int
    parent_comm: str


class Connection(msgspec.Struct, frozen=True, gc=False):
    """One connect attempt, or datagrams of one flow in one window."""

    ts: int
    """Time of the event, ns since the epoch."""
    hook: str
    """The input that saw it: ebpf, nflog, nfqueue, pcap."""
    protocol: str
    """tcp, udp, or the IP protocol number as text."""
    ip_version: int
    """4 or 6; an IPv4-mapped address is IPv4."""
    dest_ip: str
    dest_port: int | None
    """Host byte order; None for protocols without ports."""
    src_ip: str | None = None
    src_port: int | None = None
    count: int = 1
    """Datagrams this record stands for; 1 for a connect."""
    result: str | None = None
    """errno name where the connect failed at once; None where it did not or isn't known."""
    direction: str = "out"
    netns: int | None = None
    """Inode number of the network namespace of the socket."""
    ifname: str | None = None
    """Interface that the socket is bound to or the address is scoped to."""
    process: Process | None = None
    tid: int | None = None
    attribution: str | None = None
    """Where the process comes from (`kernel`), or why there is none."""
    dest_names: tuple[str, ...] = ()
    verdict: str | None = None

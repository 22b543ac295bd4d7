# SPDX-License-Identifier: MIT
"""The one record that every input makes and every output takes.

Text that came from a process (names, command lines, paths) is `str` decoded with surrogateescape: it is
an attacker's choice, and only outputs turn it into safe text. A field that is not known is None, never a false
zero.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

ATTRIBUTED = frozenset(("kernel", "proc", "sock_diag"))
"""What `Connection.attribution` is where the process is known; else it is a reason."""
DETAILS_LOST = "kernel: without details, the ring buffer was full"
"""A reason that may not last: they come again with the program's next event."""
PACKET_PREFIX = "packet-"
"""Before the protocol of frames that went to a device by AF_PACKET: no firewall rule for OUTPUT sees them."""


class Process(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A process as it was when it connected. Parents are shared objects of the same kind, up to 8 levels."""

    pid: int | None = None
    """tgid in the pid namespace that pyegress runs in; in the initial one where it has none there.

    None where only the owner of the socket is known.
    """
    start_ns: int | None = None
    """Start of the process, ns since boot (CLOCK_BOOTTIME), to the clock tick when read from /proc."""
    comm: str | None = None
    """The kernel's name of the process: its main thread's comm, at most 15 bytes."""
    name: str | None = None
    """`comm`, or the full name where comm is cut; kernel threads without their worker number."""
    exe: str | None = None
    """Path of the program's file, without ` (deleted)`; in a container as the container names it."""
    cmdline: str | None = None
    """Arguments joined by spaces."""
    cmdline_cut: bool = False
    """There were more than 4 KiB of arguments."""
    script: str | None = None
    """The script that an interpreter runs, as its arguments name it."""
    uid: int | None = None
    """The real user's number in the initial user namespace."""
    gid: int | None = None
    """The real group's number."""
    user: str | None = None
    """Name of `uid`, or the number as text where it has none."""
    loginuid: int | None = None
    """Who logged in, whatever the process has become since (audit's loginuid)."""
    session_pid: int | None = None
    """The session leader's tgid in the initial pid namespace."""
    session_name: str | None = None
    """The session leader's name, where it still ran."""
    cgroup_id: int | None = None
    """Inode number of the cgroup v2; of v1's `pids` or `memory` with the highest, or two highest, bits set."""
    cgroup: str | None = None
    """Path of that cgroup from the root of its hierarchy."""
    unit: str | None = None
    """The systemd system unit: `ssh.service`, `session-3.scope`, `user@1000.service`."""
    user_unit: str | None = None
    """The unit of a user's own systemd."""
    slice: str | None = None
    """The innermost systemd slice around the unit."""
    login_session: str | None = None
    """Number of the login session, as loginctl shows it."""
    container: str | None = None
    """The container's id, whole; for LXC and nspawn its name."""
    container_engine: str | None = None
    """docker, podman, containerd, crio, lxc, nspawn."""
    container_name: str | None = None
    """As its engine's files have it."""
    pod: str | None = None
    """uid of the Kubernetes pod."""
    netns: int | None = None
    """Inode number of the process's network namespace; a socket may be of another one."""
    pidns: int | None = None
    """Inode number of the process's pid namespace."""
    kernel: bool = False
    """A kernel thread: it has no executable and no command line."""
    attribution: str = "kernel"
    """`kernel`: all that is known was taken at the connection; `proc`: a part was read in /proc afterwards;
    `sock_diag`: found through the packet's socket and read in /proc; otherwise why it is not known."""
    parent: Process | None = None
    """As it was when it was first seen."""


class Identity(NamedTuple):
    """What no two programs share: a number is given to another process, and a process runs another program."""

    tgid: int
    """In the initial pid namespace."""
    start_ns: int
    """ns since boot (CLOCK_BOOTTIME)."""
    exec_id: int
    """Grows with each exec."""


class Seen(NamedTuple):
    """What every event says of its process; these can change while the program runs."""

    identity: Identity
    comm: str
    uid: int
    gid: int
    cgroup_id: int
    kernel: bool


class Details(NamedTuple):
    """What the kernel tells once of a program, when it first connects or is an ancestor of one that does."""

    seen: Seen
    parent: Identity | None
    """None for the first processes of the host."""
    local_pid: int | None
    """tgid in the pid namespace that pyegress runs in."""
    exe: str | None
    args: bytes | None
    """Arguments, each ended by NUL; None where they could not be read (`fault`) or belong to an ancestor."""
    args_cut: bool
    fault: bool
    """Arguments or path are in memory that was not there to read, or too long: /proc may have them."""
    arg_start: int
    """Address of the arguments: tells one exec from another in /proc/PID/stat; 0 where not known."""
    session_pid: int | None
    """The session leader's, in the initial pid namespace."""
    session_comm: str | None
    """None where it has gone."""
    loginuid: int | None
    netns: int | None
    pidns: int | None


class CgroupPath(NamedTuple):
    """What the kernel tells once of a cgroup."""

    cgroup_id: int
    path: str


class Connection(msgspec.Struct, frozen=True, gc=False):
    """One connect attempt, or datagrams of one flow in one window."""

    ts: int
    """Time of the event, ns since the epoch; 0 where a capture has none."""
    hook: str
    """The input that saw it: ebpf, nflog, nfqueue, pcap."""
    protocol: str
    """tcp, udp, or the IP protocol number as text; `packet-` before it for a frame of AF_PACKET."""
    ip_version: int
    """4 or 6; an IPv4-mapped address is IPv4."""
    dest_ip: str
    """Where it went to; an IPv6 address may have a zone (`%eth0`)."""
    dest_port: int | None
    """Host byte order; None for protocols without ports."""
    src_ip: str | None = None
    """Where it came from, where the input sees that."""
    src_port: int | None = None
    """Host byte order."""
    count: int = 1
    """Datagrams this record stands for; 1 for a connect."""
    result: str | None = None
    """errno name where the connect failed at once; None where it did not or isn't known."""
    direction: str = "out"
    """`out`: from this host."""
    netns: int | None = None
    """Inode number of the network namespace of the socket."""
    ifname: str | None = None
    """Interface that the socket is bound to or the address is scoped to."""
    process: Process | None = None
    """Who connected; where only the socket's owner is known, that alone."""
    tid: int | None = None
    """Number of the thread that connected, in the namespace of the process's `pid`."""
    thread: str | None = None
    """comm of the thread that connected, where it is not the main thread."""
    attribution: str | None = None
    """Where the process comes from (`kernel`, `proc`, `sock_diag`), or why it isn't known; the user may be even so."""
    kernel_socket: bool = False
    """The kernel's own socket (NFS, CIFS), in the name of the process that asked for it."""
    socket_uid: int | None = None
    """Owner of the socket: what iptables' owner match and nft's `meta skuid` compare; None where it isn't known."""
    dest_names: tuple[str, ...] = ()
    """Host names that led to the address: those that the process asked for first."""
    dest_name_sources: tuple[str, ...] = ()
    """Where each of `dest_names` comes from: `dns` (an answer that was seen), `hosts` (/etc/hosts), `ptr`."""
    dest_name_ages: tuple[int, ...] = ()
    """Seconds since each was last told, rounded down to 0, 1, 10, 60, 600, 3600 or 86400."""
    dest_names_missing: str | None = None
    """Why there are none although they were asked for: `no-answer` (no answer that was seen told the address),
    `dot-or-doh` (the program may ask over TLS or HTTPS), `dns-unseen` (answers are not looked at here),
    `is-dns` (it went to port 53)."""
    verdict: str | None = None
    """What nfqueue did with it: accept, drop, reject."""


class Repeats(msgspec.Struct, frozen=True, gc=False):
    """Connections that differ in time, source port and count alone."""

    connection: Connection
    """What they have in common; its time, source port and count are of any with the same process."""
    records: int
    count: int
    """Of all together."""
    first_ns: int
    last_ns: int
    """Since the epoch; 0 where no time is known."""

    @classmethod
    def of(cls, connection: Connection) -> Repeats:
        """A single one."""
        return cls(connection, 1, connection.count, connection.ts, connection.ts)

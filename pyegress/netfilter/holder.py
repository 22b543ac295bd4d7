# SPDX-License-Identifier: MIT
"""Who else has a log group or queue of this network namespace, and why opening one failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from pyegress.errors import EgressError, InputError, UnsupportedError
from pyegress.escape import display

# Of the thread: /proc/net is that of the main thread, which may be in another network namespace.
NET = Path("/proc/thread-self/net")
_NETFILTER_PROTOCOL = "12"


class Kind(NamedTuple):
    """A log or a queue, as messages and the kernel name it."""

    name: str
    """Of the input."""
    noun: str
    module: str
    """Also the name of the file in /proc that lists those in use."""
    config: str


LOG = Kind("nflog", "group", "nfnetlink_log", "CONFIG_NETFILTER_NETLINK_LOG")
QUEUE = Kind("nfqueue", "queue", "nfnetlink_queue", "CONFIG_NETFILTER_NETLINK_QUEUE")


def listed(kind: Kind, number: int) -> list[int] | None:
    """The numbers that the kernel tells of one that is in use; None where it is not, or we may not know."""
    try:
        lines = (NET / "netfilter" / kind.module).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = [int(field) for field in line.split()]
        if fields[0] == number:
            return fields
    return None


def failure(kind: Kind, number: int, code: int) -> EgressError:
    """The error to raise for an errno of the netlink socket."""
    where = f"{kind.name}: {kind.noun} {number}"
    # The kernel says EPERM also where another has it, and EBUSY where that is our own socket.
    used = listed(kind, number) if code in (errno.EPERM, errno.EBUSY) else None
    if used is not None:
        return InputError(
            f"{where} is in use by {_owner(used[1])}; take another number, there and in the rules"
        )
    name = errno.errorcode.get(code, f"errno {code}")
    if code in (errno.EPERM, errno.EACCES):
        return UnsupportedError(
            f"{where}: {name}: needs CAP_NET_ADMIN over this network namespace; run as root, for example with sudo"
        )
    if code == errno.EPROTONOSUPPORT or not (NET / "netfilter" / kind.module).exists():
        return UnsupportedError(
            f"{where}: {name}: this kernel has no {kind.module}; try `modprobe {kind.module}` ({kind.config})"
        )
    return InputError(f"{where}: {name}: {os.strerror(code)}")


def _owner(port: int) -> str:
    """The process whose socket has this netlink port: it is the pid of most, but only by custom."""
    inode = _inode(port)
    socket = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*") if inode else ():
        try:
            if any(str(fd.readlink()) == socket for fd in (process / "fd").iterdir()):
                return f"pid {process.name} ({_comm(process)})"
        except OSError:  # gone meanwhile, or not ours to see
            continue
    return f"netlink port {port}"


def _inode(port: int) -> str | None:
    try:
        lines = (NET / "netlink").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1:3] == [_NETFILTER_PROTOCOL, str(port)]:
            return fields[-1]
    return None


def _comm(process: Path) -> str:
    raw = (process / "comm").read_bytes().removesuffix(b"\n")
    return display(raw.decode("utf-8", "surrogateescape"))

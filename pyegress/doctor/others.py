# SPDX-License-Identifier: MIT
"""What /proc shows of other processes, found by looking at each of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyegress.doctor.finding import Finding
from pyegress.doctor.rights import is_there

INITIAL_NAMESPACE = "pid:[4026531836]"
"""linux/proc_ns.h: the host's own has a number of its own."""


def processes(name: str) -> Finding:
    """Whether programs and open sockets of all processes can be seen."""
    if str(Path("/proc/self/ns/pid").readlink()) != INITIAL_NAMESPACE:
        return Finding(
            name,
            "limited",
            "in a pid namespace: /proc doesn't show processes outside of it",
            "run on the host, or in a container with --pid=host",
        )
    hidepid = _hidepid()
    told = f" (mounted with hidepid={hidepid})" if hidepid else ""
    if _is_hidden(1):
        return Finding(name, "limited", f"doesn't show other users' processes{told}", _remedy())
    pids = [entry.name for entry in Path("/proc").glob("[0-9]*")]
    closed = sum(not _is_open(pid) for pid in pids)
    if closed:
        hidden = f"program or sockets of {closed} of {len(pids)} processes can't be seen{told}"
        return Finding(name, "limited", hidden, _remedy())
    return Finding(name, "works", f"shows programs and sockets of all processes{told}")


def _remedy() -> str:
    missing = [one for one in ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH") if not is_there(one)]
    if missing:
        return f"give {' and '.join(missing)}, or run as root"
    return "capabilities are enough: a security module, or another user namespace, keeps them"


def _hidepid() -> str | None:
    """The value of the option where /proc is mounted with it and it hides something; the last mount counts."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        mount, _, options = line.partition(b" - ")
        if mount.split(b" ")[4] == b"/proc":
            match = re.search(rb"\bhidepid=([a-z0-9]+)", options)
            found = match[1].decode() if match and match[1] not in (b"0", b"off") else None
    return found


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError:
        return False
    return not Path("/proc", str(pid)).exists()


def _is_open(pid: str) -> bool:
    try:
        Path("/proc", pid, "exe").readlink()
        os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 (nothing of it is of interest)
    except PermissionError:
        return False
    except OSError:
        pass  # a kernel thread, or gone meanwhile
    return True

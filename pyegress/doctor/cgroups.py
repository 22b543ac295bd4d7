# SPDX-License-Identifier: MIT
"""Where cgroup v2 is mounted, and whether it is the host's whole hierarchy."""

from __future__ import annotations

import os
from pathlib import Path

from pyegress import kernel
from pyegress.doctor.finding import Finding
from pyegress.escape import display

MOUNT = "mount -t cgroup2 none /sys/fs/cgroup"
INITIAL_NAMESPACE = "cgroup:[4026531835]"
"""linux/proc_ns.h: the host's own has a number of its own."""


def hierarchy(name: str) -> Finding:
    """Cgroup hooks go on its root, and its paths tell units and containers."""
    root = kernel.cgroup2_root()
    if root is None:
        if b"\tcgroup2\n" not in Path("/proc/filesystems").read_bytes():
            return Finding(name, "fails", "this kernel has none", "use a kernel built with CONFIG_CGROUPS=y")
        return Finding(name, "fails", "no mount of the whole hierarchy", MOUNT)
    where = f"{display(os.fspath(root))}, {'hybrid: v1 hierarchies beside it' if _has_v1() else 'unified'}"
    if _namespace() != INITIAL_NAMESPACE:
        return Finding(
            name,
            "limited",
            f"{where}; in a cgroup namespace, whose root is not the host's: cgroup hooks see this part only",
            "run on the host, or in a container with --cgroupns=host and /sys/fs/cgroup of the host",
        )
    return Finding(name, "works", where)


def _has_v1() -> bool:
    return b" - cgroup " in Path("/proc/self/mountinfo").read_bytes()


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/cgroup").readlink())
    except OSError:
        # A kernel without these namespaces.
        return INITIAL_NAMESPACE

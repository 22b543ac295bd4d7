# SPDX-License-Identifier: MIT
"""What a process may take: locked memory, open files."""

from __future__ import annotations

import resource

from pyegress import kernel
from pyegress.doctor.finding import Finding
from pyegress.doctor.rights import is_there

ENOUGH_FILES = 256
"""Hooks take up to 80, each output some, nfqueue one for each queue."""


def memlock(name: str) -> Finding:
    """Whether the memory of BPF programs and maps is bounded too tightly; libbpf raises the limit where it may."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    amount = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    if not kernel.counts_as_locked():
        return Finding(name, "works", f"{amount}, which doesn't bound BPF since Linux 5.11")
    if not kernel.memlock_is_limited():
        return Finding(name, "works", amount)
    if is_there("CAP_SYS_RESOURCE"):
        return Finding(name, "works", f"{amount}, which pyegress may raise")
    return Finding(
        name,
        "fails",
        f"{amount}, which is too little for BPF and can't be raised",
        "run with `ulimit -l unlimited` or LimitMEMLOCK=infinity",
    )


def open_files(name: str) -> Finding:
    """Whether enough files may be open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES:
        return Finding(name, "works", "unlimited" if soft == resource.RLIM_INFINITY else str(soft))
    return Finding(
        name,
        "limited",
        f"{soft} may be too few for hooks, outputs and queues",
        "run with `ulimit -n 1024` or LimitNOFILE=1024",
    )

# SPDX-License-Identifier: MIT
"""Capabilities one by one, and what each is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pyegress import kernel
from pyegress.doctor.finding import Finding
from pyegress.escape import display
from pyegress.privileges import Capability


class _Purpose(NamedTuple):
    capability: Capability
    purpose: str
    includers: tuple[Capability, ...] = ()
    """Others that stand in for it."""
    needed: bool = False
    """There is no audit by eBPF without it."""
    sysctl: str = ""
    """What might have let us do without it."""


_PURPOSES = (
    _Purpose(
        Capability.BPF,
        "load programs into the kernel",
        (Capability.SYS_ADMIN,),
        True,
        "kernel/unprivileged_bpf_disabled",
    ),
    _Purpose(
        Capability.PERFMON,
        "have them read kernel memory",
        (Capability.SYS_ADMIN,),
        True,
        "kernel/perf_event_paranoid",
    ),
    _Purpose(Capability.NET_ADMIN, "cgroup hooks, nflog, nfqueue, and the rules of `apply`"),
    _Purpose(Capability.NET_RAW, "pcap, and refusals of nfqueue"),
    _Purpose(Capability.SYS_PTRACE, "other users' programs and sockets in /proc"),
    _Purpose(
        Capability.DAC_READ_SEARCH,
        "folders of other users: their open sockets, names of containers",
        (Capability.DAC_OVERRIDE,),
    ),
    _Purpose(Capability.SYS_RESOURCE, "more locked memory than allowed, before Linux 5.11"),
    _Purpose(Capability.SYS_ADMIN, "other network namespaces: whose packets were forwarded"),
)
CAPABILITIES = {f"CAP_{each.capability.name}": each for each in _PURPOSES}


def is_there(name: str) -> bool:
    """Whether the capability of that name is in effect, or one that includes it."""
    effective = kernel.effective_capabilities()
    return any(effective >> bit & 1 for bit in (CAPABILITIES[name].capability, *CAPABILITIES[name].includers))


def capability(name: str) -> Finding:
    """Whether the capability of that name is in effect; one that can be done without is at most a limit."""
    wanted = CAPABILITIES[name]
    if not is_there(name):
        return _missing(name, wanted)
    if not kernel.in_initial_user_namespace():
        where = f"only over this user namespace: {wanted.purpose}"
        return Finding(name, "limited", where, "run on the host, outside of user namespaces")
    own = kernel.effective_capabilities() >> wanted.capability & 1
    included = "" if own else " (by another one that includes it)"
    return Finding(name, "works", f"{wanted.purpose}{included}")


def _missing(name: str, wanted: _Purpose) -> Finding:
    if name == "CAP_SYS_RESOURCE" and not kernel.counts_as_locked():
        return Finding(name, "works", f"not there, and not needed: {wanted.purpose}")
    detail = f"not there: {wanted.purpose}"
    if wanted.sysctl and (value := _sysctl(wanted.sysctl)):
        detail += f" ({wanted.sysctl.replace('/', '.')} is {value})"
    way_on = "run as root, for example with sudo; " if os.geteuid() else ""
    remedy = f"{way_on}AmbientCapabilities={name} in a unit, --cap-add {name} for a container"
    return Finding(name, "fails" if wanted.needed else "limited", detail, remedy)


def _sysctl(name: str) -> str:
    try:
        return display(Path("/proc/sys", name).read_text().strip())
    except OSError:
        return ""

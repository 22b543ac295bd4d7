# SPDX-License-Identifier: MIT
"""The kernel, and what it says of itself."""

from __future__ import annotations

import ctypes
import os
import platform

from pyegress import kernel
from pyegress.doctor.finding import Finding
from pyegress.escape import display

OLDEST = (5, 8)
"""The first kernel with ring buffers."""
TESTED = ("x86_64", "aarch64")
BUILT = ("riscv64", "s390x", "ppc64le")
_TIME_ERROR = 5
_TIMEX_BYTES = 512
"""More than struct timex has."""


def release(name: str) -> Finding:
    """Whether the kernel is new enough; a vendor's older one may have what is needed, which the hooks tell."""
    detail = display(platform.release())
    if kernel.release() < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Finding(name, "fails", f"{detail} is too old for eBPF hooks", f"use Linux {wanted} or newer")
    return Finding(name, "works", detail)


def architecture(name: str) -> Finding:
    """Whether the programs for the kernel are made for this one."""
    machine = display(platform.machine())
    if machine in TESTED:
        return Finding(name, "works", machine)
    if machine in BUILT:
        return Finding(name, "limited", f"{machine}: can be built, but isn't tested", "report what fails")
    return Finding(name, "fails", f"{machine}: not known to build.py", f"use {', '.join(TESTED)}")


def btf(name: str) -> Finding:
    """Whether the kernel describes its types."""
    if kernel.has_btf():
        return Finding(name, "works", str(kernel.BTF))
    return Finding(
        name,
        "fails",
        f"{kernel.BTF} is not there",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container mount /sys",
    )


def lockdown(name: str) -> Finding:
    """Whether the kernel's lockdown lets BPF read its memory."""
    mode = kernel.lockdown()
    if mode == "confidentiality":
        return Finding(
            name,
            "fails",
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or none",
        )
    if mode is not None:
        return Finding(name, "works", f"{mode}: BPF may read kernel memory")
    return Finding(
        name,
        "unknown",
        f"{kernel.LOCKDOWN} can't be read",
        "where hooks fail without another cause: mount -t securityfs none /sys/kernel/security",
    )


def clock(name: str) -> Finding:
    """Whether the clock, which the times of connections are of, is kept right (adjtimex(2), which only asks here)."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        return Finding(name, "unknown", f"adjtimex: {os.strerror(ctypes.get_errno())}")
    if state == _TIME_ERROR:
        return Finding(
            name,
            "limited",
            "nobody keeps it right, as far as the kernel knows: times of connections may be off",
            "run chrony, ntpd or systemd-timesyncd (on the host, for a container)",
        )
    return Finding(name, "works", "synchronised")

# SPDX-License-Identifier: MIT
"""What this kernel and this process' rights offer to eBPF, and what a failure means."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
from functools import lru_cache
from pathlib import Path
from socket import if_indextoname

from pyegress.errors import TOO_FEW_FILES
from pyegress.privileges import Capability

NEEDED = Capability.NET_ADMIN, Capability.PERFMON, Capability.BPF

LOCKDOWN = Path("/sys/kernel/security/lockdown")
BTF = Path("/sys/kernel/btf/vmlinux")
FTRACE_ENABLED = Path("/proc/sys/kernel/ftrace_enabled")
FTRACE_ON = "function tracing is switched off: sysctl kernel.ftrace_enabled=1"


def missing_capabilities() -> list[str]:
    """Names of needed capabilities that this process lacks; CAP_SYS_ADMIN includes those of BPF."""
    effective = effective_capabilities()
    has_admin = effective >> Capability.SYS_ADMIN & 1
    return [
        f"CAP_{each.name}"
        for each in NEEDED
        if not effective >> each & 1 and not (has_admin and each is not Capability.NET_ADMIN)
    ]


def may_trace_others() -> bool:
    """Whether this thread has CAP_SYS_PTRACE, without which /proc hides much of other users' processes."""
    return bool(effective_capabilities() >> Capability.SYS_PTRACE & 1)


def table_rights() -> frozenset[Capability]:
    """What the tables of a loaded program need; since 5.19 (c8644cd0efe7) their descriptors are enough."""
    if release() >= (5, 19):
        return frozenset()
    has_bpf = effective_capabilities() >> Capability.BPF & 1
    return frozenset({Capability.BPF if has_bpf else Capability.SYS_ADMIN})


def effective_capabilities() -> int:
    """The bits of linux/capability.h that this thread has in effect."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def lockdown() -> str | None:
    """none, integrity or confidentiality; None where the kernel does not say."""
    try:
        text = LOCKDOWN.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def has_btf() -> bool:
    """Whether the kernel describes its types (CONFIG_DEBUG_INFO_BTF)."""
    return BTF.exists()


def has_kprobes() -> bool:
    """Whether the kernel knows kprobes at all (CONFIG_KPROBE_EVENTS); only attaching tells if they work."""
    return Path("/sys/bus/event_source/devices/kprobe").exists()


def cgroup2_root() -> Path | None:
    """Where the whole cgroup v2 hierarchy is mounted; a mount of a part of it would hide the other processes."""
    # Bytes, because any mount may have any name; octal escapes as of proc_pid_mountinfo(5).
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n"):
        mount, _, kind = line.partition(b" - ")
        if kind.startswith(b"cgroup2 "):
            part, path = mount.split(b" ")[3:5]
            root = Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), path)))
            # Another mount may lie over it.
            if part == b"/" and (root / "cgroup.procs").exists():
                return root
    return None


def has_cgroup_v1() -> bool:
    """Whether `pids` or `memory` are on v1 hierarchies: the unified one may not tell a process's place then."""
    try:
        lines = Path("/proc/cgroups").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[1] != "0" for line in lines if line.startswith(("pids\t", "memory\t")))


@lru_cache(maxsize=256)
def interface_name(index: int) -> str | None:
    """Name of an interface of this network namespace."""
    try:
        return if_indextoname(index)
    except OSError:
        return None


def in_initial_user_namespace() -> bool:
    """Whether capabilities here are those of the host."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def release() -> tuple[int, int]:
    """Version of the kernel: (6, 12) for 6.12.3-amd64."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def function_tracing_is_off() -> bool:
    """Whether the kernel calls no traced function (kernel.ftrace_enabled): what is attached then sees nothing.

    To attach kprobes meanwhile may also break function tracing until the next boot.
    """
    try:
        return FTRACE_ENABLED.read_text().strip() == "0"
    except OSError:
        return False


def counts_as_locked() -> bool:
    """Whether BPF memory is bounded by RLIMIT_MEMLOCK, as it is before 5.11; later it counts to the cgroup."""
    return release() < (5, 11)


def memlock_is_limited() -> bool:
    """Whether there is an RLIMIT_MEMLOCK."""
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY


def errno_name(code: int) -> str:
    """`EPERM` for 1 or -1."""
    return errno.errorcode.get(abs(code), f"errno {abs(code)}")


def explain(codes: set[int], log: str) -> str:
    """Cause and way on of a failed load or attach, from the errnos seen and the verifier's text."""
    missing = missing_capabilities()
    if missing:
        return f"missing {', '.join(missing)}; run as root, for example with sudo"
    found = cause(codes, log)
    if found is not None:
        return found
    if function_tracing_is_off():
        return f"{FTRACE_ON}, or use -I ebpf:attach:cgroup"
    if not has_kprobes() and cgroup2_root() is None:
        return "this kernel has no kprobes and no cgroup v2 is mounted; mount -t cgroup2 none /sys/fs/cgroup"
    if not has_kprobes():
        return "this kernel has no kprobes (CONFIG_KPROBE_EVENTS); use -I ebpf:attach:cgroup"
    return "see `pyegress doctor`, or run with --debug for the kernel's own words"


def cause(codes: set[int], log: str) -> str | None:
    """What would keep any kind of hook from working, whatever the capabilities, and the way on; None: nothing known."""
    if not has_btf():
        return (
            f"this kernel has no BTF ({BTF} is not there); use a kernel built with CONFIG_DEBUG_INFO_BTF=y, "
            "as those of Debian 11, Ubuntu 20.10, RHEL 8.2 and newer are"
        )
    if lockdown() == "confidentiality":
        return (
            "kernel lockdown is in confidentiality mode, which keeps BPF from reading kernel memory; "
            "boot with lockdown=integrity or none"
        )
    if "unknown func bpf_probe_read_kernel" in log or "cannot use helper bpf_probe_read" in log:
        return (
            "the kernel forbids BPF to read kernel memory, as lockdown=confidentiality does; boot without it"
        )
    if not in_initial_user_namespace():
        return "this is a user namespace, whose root has no rights over BPF; run on the host"
    # EBADF: libbpf goes on where it could get no more descriptors.
    if codes & {errno.EMFILE, errno.ENFILE, errno.EBADF}:
        return TOO_FEW_FILES
    if codes & {errno.EPERM, errno.ENOMEM} and counts_as_locked() and memlock_is_limited():
        return (
            "locked memory is limited (RLIMIT_MEMLOCK) and could not be raised; "
            "run with `ulimit -l unlimited` or LimitMEMLOCK=infinity"
        )
    if errno.ENOMEM in codes:
        return "out of memory for the kernel's tables; raise MemoryMax=, or have a smaller -I ebpf:ring"
    return None


def has_module(name: str) -> bool:
    """Whether a module of the kernel is loaded."""
    return Path("/sys/module", name).is_dir()

# SPDX-License-Identifier: MIT
"""The doctor on kernels that have everything, and where one thing of it is switched off."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.doctor import hooks, host
from pyegress.doctor.examination import examine
from pyegress.doctor.finding import Finding
from tests.doctor.checking import nobody_with, of, run

both = pytest.mark.guest("6.1", "6.12")
PATIENCE_S = 60
"""For the kernel to free what was let go, on a loaded machine."""
KPROBES = Path("/sys/kernel/debug/kprobes/enabled")
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")


@contextmanager
def written(path: Path, text: str) -> Iterator[None]:
    """A switch of the kernel in another position."""
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def debugfs() -> Iterator[None]:
    """It is mounted where tools look for it."""
    mounted = KPROBES.exists()
    if not mounted:
        assert run("mount", "-t", "debugfs", "none", "/sys/kernel/debug").returncode == 0
    try:
        yield
    finally:
        if not mounted:
            run("umount", "/sys/kernel/debug")


def left() -> tuple[str, ...]:
    """Programs and links in the kernel, and queues and groups in use."""
    netfilter = [Path("/proc/net/netfilter", name) for name in ("nfnetlink_queue", "nfnetlink_log")]
    return (
        run("bpftool", "prog").stdout,
        run("bpftool", "link").stdout,
        # The modules that are behind them stay loaded.
        *(path.read_text() if path.exists() else "" for path in netfilter),
    )


def tried(kind: str) -> Finding:
    """What one kind comes to."""
    return hooks.finding(hooks.attempt(kind))


@both
def test_everything_works_and_nothing_is_left() -> None:
    """All hooks attach and see a connection, netfilter and sock_diag answer, and the kernel is as it was."""
    assert run("ip", "link", "set", "lo", "up").returncode == 0
    before = left()
    report = examine()
    assert report.works and report.verdict == "pyegress will use fentry"
    states = {one.name: one.state for one in report.findings}
    names = [
        *("kernel", "architecture", "lockdown", "btf", "ring-buffer", "cgroup-v2", "memlock"),
        *("fentry", "kprobe", "cgroup", "nflog", "nfqueue", "pcap", "sock-diag-tcp", "sock-diag-udp", "proc"),
        *("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
    ]
    assert {name: states[name] for name in names} == dict.fromkeys(names, "works"), report.findings
    for kind in ("fentry", "kprobe"):
        functions = {
            "tcp_v4_connect",
            "tcp_v6_connect",
            "udp_sendmsg",
            "udpv6_sendmsg",
            "packet_parse_headers",
        }
        functions |= {"ping_v4_sendmsg", "ping_v6_sendmsg", "raw_sendmsg", "rawv6_sendmsg"}
        assert set(of(report, kind).detail.split(", ")) == functions
    deadline = time.monotonic() + PATIENCE_S
    # Trampolines and what they held are freed after a grace period.
    while (after := left()) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert after == before


@both
def test_kprobes_that_are_switched_off() -> None:
    """They attach as ever and are never called; only a connection tells."""
    with debugfs(), written(KPROBES, "0"):
        found = tried("kprobe")
    assert found.state == "fails" and "was not seen" in found.detail
    assert found.remedy == f"kprobes are switched off: echo 1 > {KPROBES}"


@both
def test_function_tracing_that_is_switched_off() -> None:
    """They would attach as ever here too; the sysctl is named."""
    with written(FTRACE, "0"):
        found = tried("fentry")
    assert found.state == "fails" and "sysctl kernel.ftrace_enabled=1" in str(found.remedy)


@both
def test_capabilities_that_suffice_for_tracing() -> None:
    """Those two are enough for fentry; cgroup hooks want another one."""
    code = "from pyegress.doctor.hooks import attempt, finding\n"
    code += "for kind in ('fentry', 'cgroup'):\n    found = finding(attempt(kind))\n"
    code += "    print(found.state, found.remedy, sep=': ')\n"
    done = run(*nobody_with("dac_read_search", "bpf", "perfmon"), sys.executable, "-c", code)
    fentry, cgroup = done.stdout.splitlines()
    # Without CONFIG_FPROBE there are plain kprobes only, which Debian's kernels keep for CAP_SYS_ADMIN.
    assert fentry.startswith("limited: " if os.environ["PYEGRESS_GUEST"] == "6.1" else "works: None")
    assert cgroup.startswith("fails: missing CAP_NET_ADMIN: run as root")


@pytest.mark.guest("6.12", append="lockdown=confidentiality")
def test_lockdown() -> None:
    """It is what keeps hooks from working."""
    assert host.lockdown("lockdown").state == "fails"
    found = tried("fentry")
    assert found.state == "fails" and "lockdown" in str(found.remedy)

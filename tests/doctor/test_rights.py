# SPDX-License-Identifier: MIT
"""Capabilities one by one."""

from __future__ import annotations

import pytest

from pyegress import kernel
from pyegress.doctor import rights
from pyegress.doctor.finding import Finding
from tests.doctor.checking import can_run, examined, found, needs_root, nobody_with, of, run

pytestmark = needs_root
READING = "dac_read_search"
"""With it the interpreter can be read wherever it stands."""


@pytest.mark.parametrize("given", ["bpf", "perfmon", "net_admin", "net_raw", "sys_ptrace", "sys_admin"])
def test_single_capability(given: str) -> None:
    """Each finding is what the kernel was told; what that capability is for works, and the rest says what to do."""
    report = examined(*nobody_with(READING, given))
    present = {f"CAP_{given.upper()}", "CAP_DAC_READ_SEARCH"}
    if given == "sys_admin":
        present |= {"CAP_BPF", "CAP_PERFMON"}
    if not kernel.counts_as_locked():
        present.add("CAP_SYS_RESOURCE")
    for name in rights.CAPABILITIES:
        one = of(report, name)
        assert (one.state == "works") is (name in present), one
        assert (one.remedy is None) is (name in present), one
    assert (of(report, "nflog").state == "works") is (given == "net_admin")
    assert (of(report, "nfqueue").state == "works") is (given == "net_admin")
    assert (of(report, "pcap").state == "works") is (given == "net_raw")
    assert (of(report, "ring-buffer").state == "works") is (given in ("bpf", "sys_admin"))
    for kind in ("fentry", "kprobe", "cgroup"):
        if given != "sys_admin":
            assert of(report, kind).state == "fails"


def test_missing_ones_are_said_with_what_they_are_for() -> None:
    """What there is no audit without fails, the rest limits; the sysctl that keeps others out is named."""
    none = nobody_with(READING)
    found_here = {name: found("rights.capability", name, *none) for name in rights.CAPABILITIES}
    assert [name for name, one in found_here.items() if one.state == "fails"] == ["CAP_BPF", "CAP_PERFMON"]
    value = run("cat", "/proc/sys/kernel/unprivileged_bpf_disabled").stdout.strip()
    assert f"kernel.unprivileged_bpf_disabled is {value}" in found_here["CAP_BPF"].detail
    assert "kernel.perf_event_paranoid is " in found_here["CAP_PERFMON"].detail
    remedy = str(found_here["CAP_NET_RAW"].remedy)
    assert remedy.startswith("run as root") and "AmbientCapabilities=CAP_NET_RAW" in remedy


def test_root_without_one_is_not_told_to_be_root() -> None:
    """The way on is where it was started."""
    drop = ("setpriv", "--inh-caps=-all", "--bounding-set=-net_raw")
    one = found("rights.capability", "CAP_NET_RAW", *drop)
    assert one.state == "limited" and str(one.remedy).startswith("AmbientCapabilities=CAP_NET_RAW")


def test_override_includes_reading() -> None:
    """Who may do anything with files may read folders."""
    drop = ("setpriv", "--inh-caps=-all", f"--bounding-set=-{READING}")
    assert found("rights.capability", "CAP_DAC_READ_SEARCH", *drop) == Finding(
        "CAP_DAC_READ_SEARCH",
        "works",
        f"{rights.CAPABILITIES['CAP_DAC_READ_SEARCH'].purpose} (by another one that includes it)",
    )


def test_user_namespace() -> None:
    """Its root has them all, over itself only."""
    if run("unshare", "--user", "--map-root-user", "true").returncode:
        pytest.skip("no user namespace can be made here")
    if not can_run("unshare", "--user", "--map-root-user"):
        pytest.skip("the interpreter can't be read there")
    one = found("rights.capability", "CAP_BPF", "unshare", "--user", "--map-root-user")
    assert one.state == "limited" and "only over this user namespace" in one.detail


def test_memory_may_be_locked_before_5_11(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its capability counts."""
    monkeypatch.setattr(kernel, "effective_capabilities", lambda: 0)
    states = []
    for counts in (True, False):
        monkeypatch.setattr(kernel, "counts_as_locked", lambda counts=counts: counts)
        states.append(rights.capability("CAP_SYS_RESOURCE").state)
    assert states == ["limited", "works"]

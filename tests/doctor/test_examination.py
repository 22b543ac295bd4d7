# SPDX-License-Identifier: MIT
"""All checks together, and what they come to."""

from __future__ import annotations

import errno

import pytest

from pyegress.doctor import examination, hooks
from pyegress.doctor.examination import Examination, examine
from pyegress.doctor.finding import Finding
from pyegress.doctor.hooks import Trial
from pyegress.session import KINDS, AttachError

NAMES = [
    *("kernel", "architecture"),
    *("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"),
    *("CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"),
    *("memlock", "open-files", "lockdown", "btf", "ring-buffer", "cgroup-v2", "fentry", "kprobe", "cgroup"),
    *("nflog", "nfqueue", "pcap", "sock-diag-tcp", "sock-diag-udp", "proc"),
    *("iptables", "ip6tables", "nft", "systemd", "journald", "clock"),
]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the hooks are examined."""
    monkeypatch.setattr(examination, "BEFORE", {})
    monkeypatch.setattr(examination, "AFTER", {})


def concluded(monkeypatch: pytest.MonkeyPatch, *trials: Trial) -> Examination:
    """What is said when trying the kinds comes to this."""
    by_kind = {trial.kind: trial for trial in trials}
    monkeypatch.setattr(hooks, "attempt", by_kind.__getitem__)
    return examine()


def failed(kind: str) -> Trial:
    return Trial(kind, AttachError(kind, "load: EPERM", {errno.EPERM}, f"log of {kind};"))


def test_names() -> None:
    """They are promised to programs."""
    assert [*examination.BEFORE, *KINDS, *examination.AFTER] == NAMES


@pytest.mark.usefixtures("alone")
def test_first_kind_that_attaches_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run does."""
    seen = [Trial(kind, None, ("udp_sendmsg",), (), True) for kind in KINDS]
    assert concluded(monkeypatch, *seen).verdict == "pyegress will use fentry"
    report = concluded(monkeypatch, failed("fentry"), *seen[1:])
    assert (report.verdict, report.hooks, report.works) == ("pyegress will use kprobe", "kprobe", True)


@pytest.mark.usefixtures("alone")
def test_kind_that_is_used_and_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would take it, and so there is no audit."""
    seen = Trial("cgroup", None, ("connect4",), (), True)
    report = concluded(monkeypatch, failed("fentry"), Trial("kprobe", None, ("udp_sendmsg",)), seen)
    assert (report.hooks, report.works) == ("kprobe", False)
    assert report.verdict.startswith("pyegress will use kprobe, which sees nothing here")


@pytest.mark.usefixtures("alone")
def test_nothing_attaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure is a finding, and the verdict is the one cause."""
    asked: list[str] = []

    def explain(failures: list[AttachError]) -> str:
        asked.extend(failure.log for failure in failures)
        return "the cause"

    monkeypatch.setattr(examination, "explain", explain)
    report = concluded(monkeypatch, *map(failed, KINDS))
    assert (report.works, report.hooks, report.verdict) == (False, None, "nothing attaches: the cause")
    assert [(one.name, one.state, one.detail) for one in report.findings] == [
        (kind, "fails", "load: EPERM") for kind in KINDS
    ]
    assert asked == ["log of fentry;", "log of kprobe;", "log of cgroup;"]


def test_check_that_fails_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a finding, and the others go on."""

    def broken(_: str) -> Finding:
        raise ValueError("odd \x1b[31m")

    def full(_: str) -> Finding:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(examination, "BEFORE", {"a": broken, "b": full})
    monkeypatch.setattr(examination, "AFTER", {"c": lambda name: Finding(name, "works", "fine")})
    first, second, *_, last = concluded(monkeypatch, *map(failed, KINDS)).findings
    assert (first.name, first.state) == ("a", "unknown")
    assert first.detail == "the check itself failed: ValueError: odd \\u001b[31m"
    assert (second.state, second.detail) == ("unknown", "can't be tried: Too many open files")
    assert second.remedy == "see open-files"
    assert last.name == "c"

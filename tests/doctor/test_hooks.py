# SPDX-License-Identifier: MIT
"""Hooks, attached for a moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress import kernel, session
from pyegress.doctor import hooks
from pyegress.doctor.hooks import Trial
from pyegress.session import KINDS, AttachError
from tests.doctor.checking import descriptors, needs_root


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_attempt(kind: str) -> None:
    """What attaches sees the connection that is made for it, what doesn't says why; all is let go."""
    before = descriptors()
    trial = hooks.attempt(kind)
    assert descriptors() == before
    if trial.error is None:
        assert trial.saw and trial.hooks
        assert hooks.finding(trial).state in ("works", "limited")
    else:
        assert isinstance(trial.error, AttachError)
        assert hooks.finding(trial).state == "fails" and hooks.finding(trial).remedy


@pytest.fixture
def other_cgroup() -> Iterator[Path]:
    """A cgroup that we are not in."""
    root = kernel.cgroup2_root()
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    made = root / f"pyegress-doctor-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


@needs_root
def test_hooks_that_see_nothing(other_cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They attach, which says little: here to a cgroup in which no process is."""
    monkeypatch.setattr(kernel, "cgroup2_root", lambda: other_cgroup)
    monkeypatch.setattr(hooks, "PATIENCE_S", 0.5)
    trial = hooks.attempt("cgroup")
    assert trial.error is None and trial.hooks and not trial.saw
    found = hooks.finding(trial)
    assert found.state == "fails" and "was not seen" in found.detail and found.remedy


@needs_root
def test_a_connection_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it isn't known whether they see, and they are let go all the same."""

    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = descriptors()
    monkeypatch.setattr(os, "fork", fail)
    trial = hooks.attempt("cgroup")
    assert descriptors() == before
    assert hooks.finding(trial).state == "unknown"
    assert "temporarily unavailable" in hooks.finding(trial).detail


def test_native_module_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is a finding like others."""

    def fail(*_: object) -> None:
        raise ImportError("libbpf.so.1: cannot open\x1b")

    monkeypatch.setattr(hooks, "Session", fail)
    found = hooks.finding(hooks.attempt("fentry"))
    assert (found.state, found.detail) == ("fails", "ImportError: libbpf.so.1: cannot open\\u001b")
    assert "installation is not whole" in str(found.remedy)


def test_left_out_functions() -> None:
    """A kind that works in part says what it lacks."""
    trial = Trial("fentry", None, ("tcp_v4_connect",), ("tcp_v6_connect (not in this kernel)",), True)
    found = hooks.finding(trial)
    assert found.state == "limited"
    assert found.detail == "tcp_v4_connect; left out: tcp_v6_connect (not in this kernel)"


FINE = {
    "missing_capabilities": [],
    "has_btf": True,
    "lockdown": "none",
    "in_initial_user_namespace": True,
    "counts_as_locked": False,
    "has_kprobes": True,
    "cgroup2_root": Path("/sys/fs/cgroup"),
}


@pytest.mark.parametrize(
    ("kind", "code", "facts", "words"),
    [
        ("fentry", errno.EPERM, {"missing_capabilities": ["CAP_NET_ADMIN", "CAP_BPF"]}, "missing CAP_BPF:"),
        ("cgroup", errno.EPERM, {"missing_capabilities": ["CAP_NET_ADMIN"]}, "missing CAP_NET_ADMIN:"),
        ("fentry", errno.EPERM, {"has_btf": False}, "has no BTF"),
        ("fentry", errno.EPERM, {"lockdown": "confidentiality"}, "lockdown"),
        ("kprobe", errno.EMFILE, {}, "RLIMIT_NOFILE"),
        ("kprobe", errno.ENOENT, {"has_kprobes": False}, "CONFIG_KPROBE_EVENTS"),
        ("cgroup", errno.ENOENT, {"cgroup2_root": None}, "mount -t cgroup2"),
        ("fentry", errno.EPERM, {"has_kprobes": False}, "capabilities are enough"),
        ("fentry", errno.EINVAL, {}, "run --debug -I ebpf:attach:fentry"),
    ],
)
def test_remedy(
    kind: str, code: int, facts: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cause has its way on, for the kind that it keeps from working."""
    for name, value in {**FINE, **facts}.items():
        monkeypatch.setattr(kernel, name, lambda value=value: value)
    text = hooks.remedy(kind, AttachError(kind, "load", {code}, ""))
    assert words in text and "\n" not in text


@pytest.mark.parametrize(
    ("kind", "switch", "words"),
    [
        ("kprobe", "pyegress.doctor.hooks._KPROBES_ENABLED", "kprobes are switched off: echo 1 >"),
        ("fentry", "pyegress.kernel.FTRACE_ENABLED", "sysctl kernel.ftrace_enabled=1"),
        ("fentry", "", "switched tracing off"),
    ],
)
def test_unseen(kind: str, switch: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch that is off is named with how to turn it on."""
    (tmp_path / "switch").write_text("0\n")
    if switch:
        monkeypatch.setattr(switch, tmp_path / "switch")
    assert words in str(hooks.finding(Trial(kind, None, ("udp_sendmsg",))).remedy)


def test_function_tracing_that_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sysctl is named."""
    for name, value in FINE.items():
        monkeypatch.setattr(kernel, name, lambda value=value: value)
    (tmp_path / "switch").write_text("0\n")
    monkeypatch.setattr(kernel, "FTRACE_ENABLED", tmp_path / "switch")
    text = hooks.remedy("fentry", session.AttachError("fentry", "attach", {errno.EBUSY}, ""))
    assert text == "function tracing is switched off: sysctl kernel.ftrace_enabled=1"

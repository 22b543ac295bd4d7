# SPDX-License-Identifier: MIT
"""The doctor: what it says is what attaching found."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from pyegress import doctor, kernel
from pyegress.session import KINDS, AttachError, Session

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@needs_root
def test_report_on_this_kernel() -> None:
    """Cgroup hooks work on every supported kernel, and the first kind that works is the one to be used."""
    lines, fine = doctor.report()
    assert fine
    assert "cgroup        yes: connect4, connect6, sendmsg4, sendmsg6" in lines
    said = [line.split(None, 2) for line in lines if line.split()[0] in KINDS and line.split()[1][:2] != "v2"]
    assert [words[0] for words in said] == list(KINDS)
    first = next(words[0] for words in said if words[1] == "yes:")
    assert lines[-1] == f"pyegress will use {first}"


@needs_root
def test_report_leaves_nothing_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of hook that was tried is let go again."""
    made: list[Any] = []

    class Watched(Session):
        def __init__(self, *args: Any) -> None:
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(doctor, "Session", Watched)
    doctor.report()
    assert len(made) == len(KINDS)
    assert not any(session._self for session in made)


def test_nothing_attaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure is shown with its errno, and the last line has the one cause."""

    def fail(kind: str, _: object) -> None:
        raise AttachError(kind, "load: EPERM", {errno.EPERM}, f"log of {kind};")

    asked: list[tuple[set[int], str]] = []

    def explain(codes: set[int], log: str) -> str:
        asked.append((codes, log))
        return "the cause"

    monkeypatch.setattr(doctor, "Session", fail)
    monkeypatch.setattr(kernel, "explain", explain)
    lines, fine = doctor.report()
    assert not fine
    assert lines[-4:] == [
        "fentry        no: load: EPERM",
        "kprobe        no: load: EPERM",
        "cgroup        no: load: EPERM",
        "nothing attaches: the cause",
    ]
    assert asked == [({errno.EPERM}, "log of fentry;log of kprobe;log of cgroup;")]


def test_left_out_functions_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that works in part says what it lacks."""

    class Partial:
        hooks = ("tcp_v4_connect",)
        missing = ("tcp_v6_connect (not in this kernel)",)

        def __init__(self, *_: object) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(doctor, "Session", Partial)
    lines, fine = doctor.report()
    assert fine
    at = lines.index("fentry        yes: tcp_v4_connect")
    assert lines[at + 1] == "              left out: tcp_v6_connect (not in this kernel)"


@pytest.mark.parametrize(
    ("function", "value", "line"),
    [
        ("missing_capabilities", ["CAP_BPF"], "capabilities  missing CAP_BPF"),
        ("missing_capabilities", [], "capabilities  enough"),
        ("has_btf", False, "BTF           no (/sys/kernel/btf/vmlinux is not there)"),
        ("lockdown", "integrity", "lockdown      integrity"),
        ("lockdown", None, "lockdown      not known (securityfs is not mounted)"),
        ("cgroup2_root", None, "cgroup v2     not mounted"),
    ],
)
def test_facts(function: str, value: object, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel offers has one line each, also where nothing attaches."""

    def fail(kind: str, _: object) -> None:
        raise AttachError(kind, "load: EPERM", {errno.EPERM}, "")

    monkeypatch.setattr(doctor, "Session", fail)
    monkeypatch.setattr(kernel, function, lambda: value)
    assert line in doctor.report()[0]

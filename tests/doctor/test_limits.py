# SPDX-License-Identifier: MIT
"""Locked memory and open files."""

from __future__ import annotations

import resource

import pytest

from pyegress import kernel
from pyegress.doctor import limits
from tests.doctor.checking import examined, found, needs_root, of


def test_open_files() -> None:
    """The soft limit is the one in force."""
    assert found("limits.open_files", "open-files", "prlimit", "--nofile=100:").state == "limited"
    enough = found("limits.open_files", "open-files", "prlimit", "--nofile=256:")
    assert (enough.state, enough.detail) == ("works", "256")


@needs_root
@pytest.mark.parametrize("files", [6, 12, 20])
def test_too_few_open_files(files: int) -> None:
    """Whatever runs out, it is the cause, and every check ends in its finding."""
    report = examined("prlimit", f"--nofile={files}")
    assert not report.works and report.hooks is None
    assert "RLIMIT_NOFILE" in report.verdict
    assert of(report, "open-files").state == "limited"
    assert "ulimit -n" in str(of(report, "cgroup").remedy)


@pytest.mark.parametrize(
    ("counts", "soft", "may_raise", "state"),
    [
        (False, 65536, False, "works"),
        (True, 65536, False, "fails"),
        (True, 65536, True, "works"),
        (True, resource.RLIM_INFINITY, False, "works"),
    ],
    ids=["since 5.11", "limited", "may raise", "unlimited"],
)
def test_memlock(
    counts: bool, soft: int, may_raise: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit matters before 5.11, where it can't be raised."""
    monkeypatch.setattr(kernel, "counts_as_locked", lambda: counts)
    monkeypatch.setattr(kernel, "effective_capabilities", lambda: may_raise << 24)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, -1))
    found = limits.memlock("memlock")
    assert found.state == state
    assert (found.remedy is None) is (state == "works")

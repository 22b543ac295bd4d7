# SPDX-License-Identifier: MIT
"""The report for people."""

from __future__ import annotations

import re

import pytest

from pyegress.doctor import text
from pyegress.doctor.examination import Examination
from pyegress.doctor.finding import Finding

REPORT = Examination(
    "1.0",
    True,
    "cgroup",
    "pyegress will use cgroup",
    [
        Finding("btf", "works", "there"),
        Finding("nflog", "limited", "group 1 can be had; group 0 is in use by pid 7 ([red]x)", "ask it"),
        Finding("sock-diag-tcp", "unknown", "word " * 40),
    ],
)


def test_plain() -> None:
    """Columns are aligned, and a remedy stands below what it is for."""
    assert text.plain(REPORT).splitlines() == [
        "btf            works    there",
        "nflog          limited  group 1 can be had; group 0 is in use by pid 7 ([red]x)",
        "               do:      ask it",
        f"sock-diag-tcp  unknown  {'word ' * 40}",
        "pyegress will use cgroup",
    ]


def test_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    """States have colours, long lines are folded below their column, and a name is no markup."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    shown = text.coloured(REPORT)
    assert "\x1b[32mworks" in shown and "\x1b[33mlimited" in shown
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["btf", "works", "there"]
    assert any("([red]x)" in line for line in lines)
    folded = [line for line in lines if "word" in line]
    assert len(folded) > 1 and {line.index("word") for line in folded} == {lines[0].index("there")}
    assert lines[-1] == "pyegress will use cgroup"

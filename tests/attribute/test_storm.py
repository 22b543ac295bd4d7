# SPDX-License-Identifier: MIT
"""In a storm of processes no wrong one is ever told, and what is one process' alone is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attribute.acting import needs_root
from tests.attribute.storm import main

ROOT = Path(__file__).resolve().parents[2]
SCENES = 120


def check(counts: dict[str, int], wrong: list[str]) -> None:
    """None wrong, and all ways of being right."""
    assert wrong == []
    assert counts["search: right"] > SCENES // 3
    assert counts["find: right"] > SCENES
    assert counts["search: ambiguous"] > 0
    assert counts["search: process gone"] > 0


def test_storm() -> None:
    """Quick look-ups and searches at the same time."""
    check(*main(seed=4, scenes=SCENES))


@needs_root
def test_numbers_that_come_round() -> None:
    """The same where numbers are soon used again."""
    inner = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if subprocess.run([*inner, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespaces here")
    done = subprocess.run(
        [*inner, sys.executable, "-m", "tests.attribute.storm", "push", "5", str(SCENES)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    check(*json.loads(done.stdout))

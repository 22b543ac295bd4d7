# SPDX-License-Identifier: MIT
"""The short version of `make soak`, on this kernel: everything is done to it a few times."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import logserver
from tests.soak import ALLOWANCE_KB, Soaked, soak
from tests.test_run_command import ROOT, needs_root

SECONDS = 15
CYCLES = 3
RATE = 10_000
RING, JSON, LOKI = "lost: ebpf: ring buffer full", "lost: output json: full", "lost: output loki: full"
COUNTS = {RING: 4, JSON: 6, LOKI: 3, "skipped: by ignore-port:7": 10}
GOOD = Soaked(100, 10, 2, 1.0, 90, 93, COUNTS, [1000] * 4, [], {})
"""All is accounted for: 4 lost in the kernel, and 6 and 3 of the rest by the outputs."""


@needs_root
@pytest.mark.skipif(shutil.which("logrotate") is None, reason="no logrotate")
def test_counts_add_up_and_memory_stays(tmp_path: Path) -> None:
    """Over rotations, restarts of the log server and changes of the filters."""
    logserver.program_or_skip()
    came = soak(tmp_path, SECONDS, RATE, CYCLES, "cgroup", in_guest=False)
    assert not came.troubles(), came
    assert came.logged and came.delivered and came.hidden


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({}, 0),
        ({"shown": 99}, 1),
        ({"shown": 101}, 2),
        ({"logged": 89}, 1),
        ({"logged": 91}, 1),
        ({"delivered": 92}, 1),
        ({"delivered": 94}, 0),  # a batch is sent again if the server ended before it answered
        ({"hidden": 11}, 1),
        ({"counts": {}}, 3),
        ({"shown": 0, "hidden": 0, "logged": 0, "delivered": 0, "counts": {}}, 1),
        ({"resident_kb": [1000, 1000, 1000, 1101 + ALLOWANCE_KB]}, 1),
        ({"plain_kb": [1000, 1000, 1000, 1101 + ALLOWANCE_KB]}, 1),
    ],
)
def test_verdict(changed: dict[str, Any], count: int) -> None:
    """One record too few or too many is noticed."""
    assert len(GOOD._replace(**changed).troubles()) == count


def test_without_a_log_server(tmp_path: Path) -> None:
    """It says why, and fails: so does CI."""
    env = {**os.environ, "PATH": str(tmp_path), "PYEGRESS_CACHE": str(tmp_path)}
    words = [sys.executable, "-m", "tests.soak", "--seconds", "1"]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "soak: not done: VictoriaLogs is built with Go, which is not installed\n"

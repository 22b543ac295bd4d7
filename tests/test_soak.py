# SPDX-License-Identifier: MIT
"""The short version of `make soak`, on this kernel: everything is done to it a few times."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import logserver
from tests.soak import soak
from tests.test_run_command import needs_root

SECONDS = 15
CYCLES = 3
RATE = 10_000


@needs_root
@pytest.mark.skipif(shutil.which("logrotate") is None, reason="no logrotate")
def test_counts_add_up_and_memory_stays(tmp_path: Path) -> None:
    """Over rotations, restarts of the log server and changes of the filters."""
    logserver.program_or_skip()
    came = soak(tmp_path, SECONDS, RATE, CYCLES, "cgroup", sets_clock=False)
    assert not came.troubles(), came
    assert came.logged and came.delivered and came.hidden

# SPDX-License-Identifier: MIT
"""A process that is interrupted while it still imports, or right after: how far it is says `-X importtime`."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60
STARTS = 12
QUIET = (0, 130, -signal.SIGINT, -signal.SIGTERM)


def started(*words: str) -> subprocess.Popen[str]:
    """One that says each module that it has imported, up to the first that the entry point asks for."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "pyegress", *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(" pyegress.entry\n"):
            return process
    raise AssertionError("ended early")


@functools.cache
def imports() -> int:
    """Modules that any command imports after that."""
    process = started("version")
    _, err = process.communicate(timeout=PATIENCE_S)
    return err.count("import time:")


@pytest.mark.parametrize("words", [("replay", "-"), ("rules", "-"), ("run", "-i", "log", "-I", "log:file:-")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_traceback(words: tuple[str, ...], number: signal.Signals) -> None:
    """At whichever module it is; each would wait for its input."""
    for start in range(STARTS):
        process = started(*words)
        assert process.stderr is not None
        for _ in range(1 + (imports() - 1) * start // (STARTS - 1)):
            assert process.stderr.readline().startswith("import time:")
        process.send_signal(number)
        said, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in QUIET, err
        assert "Traceback" not in err and "KeyboardInterrupt" not in err and not said, err

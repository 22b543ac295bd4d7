# SPDX-License-Identifier: MIT
"""Where the program begins."""

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

START = """
import signal
given = signal.signal
def told(*words):
    before = given(*words)
    signal.signal = given
    print("begun", flush=True)
    return before
signal.signal = told
from pyegress.__main__ import main
main()
"""


def test_interrupted_while_it_imports() -> None:
    """It ends by the signal, with nothing said: no traceback of whatever was being imported."""
    with subprocess.Popen(
        [sys.executable, "-c", START, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_interrupts_that_are_ignored_stay_so() -> None:
    """As nohup and a shell's background jobs have it."""
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    left = "\nfinally:\n    print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    script = f"{ignored}from pyegress.__main__ import main\ntry:\n    main(){left}"
    done = subprocess.run(
        [sys.executable, "-c", script, "version"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "True"


def started(*words: str) -> subprocess.Popen[str]:
    """One that says each module that it has imported, up to the first of pyegress."""
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
        if line.endswith(" pyegress.interrupts\n"):
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
    """At whichever module it is, as `-X importtime` tells; each would wait for its input."""
    for start in range(STARTS):
        process = started(*words)
        assert process.stderr is not None
        for _ in range(1 + (imports() - 1) * start // (STARTS - 1)):
            assert process.stderr.readline().startswith("import time:")
        process.send_signal(number)
        said, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in QUIET, err
        assert "Traceback" not in err and "KeyboardInterrupt" not in err and not said, err

# SPDX-License-Identifier: MIT
"""Where the program begins."""

from __future__ import annotations

import signal
import subprocess
import sys

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

# SPDX-License-Identifier: MIT
"""Another name for the process, as the usual tools show it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

SCRIPT = """
import os, subprocess, sys
from threading import Event, Thread
from pyegress.errors import EgressError
from pyegress.processname import rename
try:
    rename(sys.argv[1])
except EgressError as error:
    print(error)
else:
    done = Event()
    Thread(target=done.wait, daemon=True).start()
    pid = str(os.getpid())
    for words in (["ps", "-ww", "-o", "args=", "-p", pid], ["ps", "-L", "-o", "comm=", "-p", pid],
                  ["top", "-b", "-n1", "-c", "-w", "512", "-p", pid], ["pgrep", "-f", sys.argv[2]]):
        print(subprocess.run(words, capture_output=True, text=True).stdout.strip())
        print("--")
    print(pid)
"""


def renamed(name: str, env: dict[str, str] | None = None, secret: str = "hush") -> list[str]:
    """What ps, ps -L, top and pgrep say."""
    command = [sys.executable, "-c", SCRIPT, name, f"^{name}$", f"--pass={secret}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=env)
    assert secret not in done.stdout
    return [part.strip() for part in done.stdout.split("--\n")]


@pytest.mark.parametrize("name", ["x", "kworker:events", "a name that is longer than fifteen bytes"])
def test_name_is_all_that_shows(name: str) -> None:
    """Arguments, the names of threads, and what pgrep finds."""
    args, threads, top, found, pid = renamed(name)
    assert args == name
    assert {thread.strip() for thread in threads.splitlines()} == {name[:15].strip()}
    assert name in top.splitlines()[-1]
    assert pid in found.split()


def test_name_that_has_no_room() -> None:
    """It is refused, and what would be shown is said."""
    command = [sys.executable, "-c", SCRIPT, "x" * 60_000, ""]
    taken = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert taken.stdout.splitlines()[0] == "x" * 60_000
    script = f"import sys; sys.argv[1:] = ['y' * 90_000, '']\n{SCRIPT}"
    refused = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env={}
    )
    assert re.fullmatch(
        "-R NAME: too long: there is room for [0-9]+ bytes; give a shorter one\n", refused.stdout
    )


@pytest.mark.parametrize("name", ["", " "])
def test_no_name(name: str) -> None:
    """Nothing can't be shown."""
    command = [sys.executable, "-c", SCRIPT, name, ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"-R '{name}': must be a name\n"

# SPDX-License-Identifier: MIT
"""Messages and data where stderr or stdout is closed."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
from pyegress.errors import OutputError
from pyegress.messages import guard_standard_fds, say, show
guard_standard_fds()
say("one")
try:
    show("two\\n")
except OutputError as error:
    say(str(error))
say("three")
"""


def run(redirection: str) -> subprocess.CompletedProcess[str]:
    """Say and show with a descriptor closed or full."""
    command = f'exec "$1" -c "$2" {redirection}'
    words = ["sh", "-c", command, "sh", sys.executable, SCRIPT]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_data_and_messages_are_apart() -> None:
    """stdout has nothing but data."""
    done = run("")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two\n", "pyegress: one\npyegress: three\n")


def test_closed_stdout_is_said() -> None:
    """And everything goes on."""
    done = run(">&-")
    assert (done.returncode, done.stdout) == (0, "")
    assert "standard output: " in done.stderr and done.stderr.endswith("pyegress: three\n")


def test_closed_stderr_stops_nothing() -> None:
    """Data still comes."""
    done = run("2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "two\n", "")


LEVELS = """
import os, sys
from pyegress.messages import Level, say, say_debug, warn
if sys.argv[1] == "journal":
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
say("one")
warn("two")
say_debug("three\\nlines")
say("four", Level.ERROR)
"""


def levels(reader: str, **environment: str) -> list[str]:
    """Lines of stderr."""
    words = [sys.executable, "-c", LEVELS, reader]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=True, env={**os.environ, **environment}
    )
    return done.stderr.splitlines()


def test_levels_for_the_journal() -> None:
    """Each line begins with its own, as sd-daemon(3) says."""
    assert levels("journal") == [
        "<6>pyegress: one",
        "<4>pyegress: two",
        "<7>pyegress: debug: three",
        "<7>lines",
        "<3>pyegress: four",
    ]


def test_no_levels_for_others() -> None:
    """Not where stderr leads elsewhere, though the journal has that of who started it."""
    plain = ["pyegress: one", "pyegress: two", "pyegress: debug: three", "lines", "pyegress: four"]
    assert levels("other") == levels("other", JOURNAL_STREAM="8:12345") == plain

# SPDX-License-Identifier: MIT
"""The nice value that a process takes, and that an audit has in all of its threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress import priority
from tests.test_as_a_service import UNIT, audit, ended, needs_root, running

TAKE = "import os, sys; from pyegress import priority; priority.take(int(sys.argv[1])); print(os.nice(0))"
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all")


def taken(started: int, asked: int) -> int:
    """What a process has that was started with one and asked for another."""
    command = ["nice", "-n", str(started - os.nice(0)), sys.executable, "-c", TAKE, str(asked)]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


@needs_root
@pytest.mark.parametrize(
    ("started", "asked", "has"),
    [
        (0, -4, -4),
        (5, -4, -4),
        (-4, -4, -4),
        (-10, -4, -10),
        (0, 0, 0),
        (-3, 0, -3),
        (0, 10, 10),
        (-5, 10, 10),
    ],
)
def test_taken(started: int, asked: int, has: int) -> None:
    """0 leaves it, and so does one that is less urgent than what somebody gave on purpose."""
    assert taken(started, asked) == has


def nices(pid: int) -> set[int]:
    """Of all threads, as proc_pid_stat(5) has it."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {int(stat.rpartition(")")[2].split()[16]) for stat in stats}


@needs_root
@pytest.mark.parametrize(
    ("started", "words", "has"),
    [
        (0, (), priority.DEFAULT),
        (0, ("--nice", "-10"), -10),
        (0, ("--nice", "0"), 0),
        (-9, (), -9),
        (5, (), 5),
        (5, ("--nice", "-1"), -1),
    ],
)
def test_all_threads_of_an_audit(tmp_path: Path, started: int, words: tuple[str, ...], has: int) -> None:
    """By default, too, unless somebody gave it another on purpose."""
    with running("nice", "-n", str(started - os.nice(0)), *audit(tmp_path / "log", *words)) as process:
        assert nices(process.pid) == {has}
        ended(process)


@needs_root
def test_what_is_replayed_can_wait() -> None:
    """By default it takes none."""
    words = ("nice", "-n", str(-os.nice(0)), sys.executable, "-m", "pyegress", "run", "-o", "text")
    with running(*words, "-i", "log", "-I", "log:file:-", stdin=subprocess.PIPE) as process:
        assert nices(process.pid) == {0}


@needs_root
def test_not_permitted() -> None:
    """An error where it was asked for; else nothing is said."""
    command = [
        *UNPRIVILEGED,
        sys.executable,
        "-m",
        "pyegress",
        "run",
        "-i",
        "log",
        "-I",
        "log:file:/dev/null",
    ]
    command += ["-o", "text"]
    for words, code, said in (
        ((), 0, ""),
        (
            ("--nice", "-5"),
            1,
            "pyegress: --nice -5: needs CAP_SYS_NICE, or a limit RLIMIT_NICE that permits it",
        ),
        (("--nice", "5"), 0, ""),
        (("--nice", "20"), 2, "pyegress: --nice 20: must be from -20 to 19"),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert said in done.stderr and ("nice" in done.stderr) == bool(said), done.stderr


def test_unit_has_the_same() -> None:
    """There systemd sets it, as the service has no right to."""
    assert f"Nice={priority.DEFAULT}" in UNIT.read_text().splitlines()

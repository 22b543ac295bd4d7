# SPDX-License-Identifier: MIT
"""The nice number of all threads of an audit, by who starts it and how."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyegress import priority
from tests.test_as_a_service import NOBODY, PATIENCE_S, ROOT, UNIT, audit, ended, needs_root, running

NO_LIMIT = ("prlimit", "--nice=0")
"""Nothing below 0 by RLIMIT_NICE."""


def unprivileged(*more: str) -> tuple[str, ...]:
    """May observe, but has no CAP_SYS_NICE unless it is among these."""
    names = ("bpf", "perfmon", "net_admin", "sys_ptrace", "dac_read_search", *more)
    given = ",".join(["-all", *(f"+{name}" for name in names)])
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *ids, f"--bounding-set={given}", f"--inh-caps={given}", f"--ambient-caps={given}")


def nice_numbers(pid: int) -> set[int]:
    """Of its threads: field 19 of proc_pid_stat(5); the name, field 2, may hold anything."""
    return {
        int((task / "stat").read_text().rpartition(") ")[2].split()[16])
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


@needs_root
@pytest.mark.parametrize(
    ("before", "words", "number"),
    [
        (("nice", "-n", "0"), (), priority.DEFAULT),
        (("nice", "-n", "0"), ("--nice", "-7"), -7),
        (("nice", "-n", "0"), ("--nice", "0"), 0),
        (("nice", "-n", "-9"), (), -9),
        (("nice", "-n", "-9"), ("--nice", "-2"), -9),
        (("nice", "-n", "5"), (), 5),
        (("nice", "-n", "5"), ("--nice", "-1"), -1),
    ],
)
def test_all_threads_have_it(
    tmp_path: Path, before: Sequence[str], words: Sequence[str], number: int
) -> None:
    """Those that were started before rights were given up, and all others; it is never raised."""
    with running(*before, *audit(tmp_path / "log", *words)) as process:
        assert nice_numbers(process.pid) == {number}
        ended(process)


@needs_root
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_not_permitted_by_default(debug: Sequence[str]) -> None:
    """It goes on without; those are told who ask."""
    command = (*NO_LIMIT, *unprivileged(), *audit(Path("/dev/null"), *debug))
    with running(*command) as process:
        assert nice_numbers(process.pid) == {0}
        said = ended(process)
    assert ("debug: --nice -4: Permission denied; going on with 0\n" in said) == bool(debug)


@needs_root
def test_asked_for_and_not_permitted() -> None:
    """One line, with the way on; with that it works."""
    words = audit(Path("/dev/null"), "--nice", "-5")
    done = subprocess.run(
        [*NO_LIMIT, *unprivileged(), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    told = (
        "pyegress: --nice -5: Permission denied; needs CAP_SYS_NICE, or an RLIMIT_NICE of 25 (LimitNICE=-5)\n"
    )
    assert (done.returncode, done.stderr) == (1, told)
    with running(*NO_LIMIT, *unprivileged("sys_nice"), *words) as process:
        assert nice_numbers(process.pid) == {-5}
        ended(process)


@pytest.mark.parametrize("text", ["1", "-21", "four", "", "1e1"])
def test_what_it_cant_be(text: str) -> None:
    """Another number, or none."""
    with pytest.raises(ValueError, match="must be "):
        priority.number(text)


def test_this_thread_alone() -> None:
    """0 changes nothing, whatever this one was started with."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    priority.take(0, debug=pytest.fail)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_unit_has_the_same() -> None:
    """There systemd sets it, as the service has no right to."""
    assert f"Nice={priority.DEFAULT}" in UNIT.read_text().splitlines()

# SPDX-License-Identifier: MIT
"""Runs the doctor, or one check of it, as a program of its own: with other rights, mounts or limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pyegress.doctor.examination import Examination
from pyegress.doctor.finding import Finding

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
NO_RIGHTS = (*NOBODY, "--inh-caps=-all", "--bounding-set=-all")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def nobody_with(*capabilities: str) -> tuple[str, ...]:
    """A user with these capabilities, written as in `net_raw`, and no others."""
    given = "".join(f",+{one}" for one in capabilities)
    return (*NOBODY, f"--inh-caps=-all{given}", f"--ambient-caps=-all{given}")


def can_run(*before: str) -> bool:
    """Whether the interpreter and the checkout can be read that way; they may stand in a private folder."""
    return run(*before, sys.executable, "-c", "import pyegress.cli").returncode == 0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command that must end by itself."""
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)


def doctor(*before: str) -> subprocess.CompletedProcess[str]:
    """`pyegress doctor --json`, run by another command."""
    return run(*before, sys.executable, "-m", "pyegress", "doctor", "--json")


def examined(*before: str) -> Examination:
    """What that reports; it must say nothing else, and its exit status must be that of its report."""
    done = doctor(*before)
    assert done.stderr == ""
    report = msgspec.json.decode(done.stdout, type=Examination)
    assert done.returncode == (0 if report.works else 1)
    return report


def of(report: Examination, name: str) -> Finding:
    """The finding of that name, which is there once."""
    (found,) = [one for one in report.findings if one.name == name]
    return found


def found(check: str, name: str, *before: str) -> Finding:
    """What one check, such as `host.btf`, finds when run by another command."""
    module, _, function = check.partition(".")
    code = (
        f"import msgspec\nfrom pyegress.doctor import {module}\n"
        f"print(msgspec.json.encode({module}.{function}({name!r})).decode())"
    )
    done = run(*before, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Finding)


def in_mounts(script: str) -> tuple[str, ...]:
    """A command that runs another one after a shell line, in a mount namespace of its own."""
    return ("unshare", "--mount", "sh", "-c", f'set -e\n{script}\nexec "$@"', "sh")


def descriptors() -> list[str]:
    """What this process has open, as /proc names it."""
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except OSError:  # that of the list itself
            continue
    return sorted(links)

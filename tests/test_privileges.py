# SPDX-License-Identifier: MIT
"""Rights that are given up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.privileges import LOOKING, Capability, are_ours

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import json, os, sys, threading
from pathlib import Path
from pyegress.privileges import LOOKING, drop

def told():
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

drop(LOOKING)
found = [told()]
thread = threading.Thread(target=lambda: found.append(told()))
thread.start()
thread.join()
print(json.dumps([[each[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "NoNewPrivs")] for each in found]))
os.execvp("cat", ["cat", "/proc/self/status"])
"""


def dropped(*before: str) -> tuple[list[list[str]], str]:
    """What a thread and the one that it starts have after that, and the status of a program executed then."""
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, _, status = done.stdout.partition("\n")
    return json.loads(first), status


@needs_root
def test_root_has_no_more_than_is_kept() -> None:
    """Neither it, nor a thread that it starts, nor what it executes."""
    mask = f"{sum(1 << number for number in LOOKING):016x}"
    threads, status = dropped()
    assert threads == [[mask, mask, "0" * 16, "0" * 16, "1"]] * 2
    assert f"CapEff:\t{mask}" in status and f"CapBnd:\t{mask}" in status


@needs_root
def test_nothing_is_gained_by_those_without() -> None:
    """An ambient one that is not kept goes too; nothing executed has any."""
    ids = ("--reuid=65534", "--regid=65534", "--clear-groups")
    threads, status = dropped(
        "setpriv", *ids, "--inh-caps=+sys_ptrace,+net_raw", "--ambient-caps=+sys_ptrace,+net_raw"
    )
    mask = f"{1 << Capability.SYS_PTRACE:016x}"
    assert threads == [[mask, mask, "0" * 16, "0" * 16, "1"]] * 2
    assert f"CapEff:\t{'0' * 16}" in status


def test_files_of_ours(tmp_path: Path) -> None:
    """Those that are there, and those that will be, folders and all."""
    (tmp_path / "there").touch()
    assert are_ours([str(tmp_path / "there"), str(tmp_path / "new"), str(tmp_path / "new/folder/file")])
    assert are_ours([])


@needs_root
def test_files_of_others(tmp_path: Path) -> None:
    """A folder or a file of another user, one that we may not write to, and one reached by a link."""
    folder, file, closed = tmp_path / "folder", tmp_path / "file", tmp_path / "closed"
    folder.mkdir()
    file.touch()
    closed.touch(0o400)
    os.chown(folder, 65534, 65534)
    os.chown(file, 65534, 65534)
    (tmp_path / "link").symlink_to(folder / "new")
    for path in (folder / "new", folder / "deep/new", file, closed, tmp_path / "link"):
        assert not are_ours([str(path)]), path

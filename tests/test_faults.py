# SPDX-License-Identifier: MIT
"""`pyegress run` where the host lacks something: it goes on, or ends with one clear line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_as_a_service import PATIENCE_S, ROOT, audit, running, send

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

BPF = 321 if platform.machine() == "x86_64" else 280
"""Number of the system call bpf(2)."""
FD_BY_ID = {"prog": 13, "map": 14, "link": 30}
"""Its commands, of linux/bpf.h."""
MOUNTED = ("unshare", "--mount", "sh", "-c")


def is_there(kind: str, number: int) -> bool:
    """Whether the kernel has a BPF object of that number."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_uint32 * 32)(number)
    fd = libc.syscall(ctypes.c_long(BPF), ctypes.c_long(FD_BY_ID[kind]), attributes, ctypes.c_long(128))
    if fd >= 0:
        os.close(fd)
        return True
    assert ctypes.get_errno() == errno.ENOENT
    return False


def objects(pid: int) -> set[tuple[str, int]]:
    """The BPF objects that a process holds, of which none may be closed meanwhile; other files may."""
    found = ""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.read_text()
    return {(kind, int(number)) for kind, number in re.findall(r"^(prog|map|link)_id:\t(\d+)$", found, re.M)}


def test_killed_it_leaves_nothing(tmp_path: Path) -> None:
    """No link, program or table, as soon as the kernel comes to it."""
    with running(*audit(tmp_path / "log")) as process:
        held = objects(process.pid)
        assert {kind for kind, _ in held} == {"prog", "map", "link"}
        assert all(is_there(*each) for each in held)
        process.kill()
        process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while left := {each for each in held if is_there(*each)}:
        assert time.monotonic() < deadline, left


@pytest.mark.parametrize("words", [audit(Path("/dev/null")), ("-i", "nflog", "-I", "nflog:group:1")])
def test_few_descriptors_from_the_start(words: tuple[str, ...]) -> None:
    """The limit is named, wherever that comes out."""
    if words[0] == "-i":
        words = ("unshare", "--net", sys.executable, "-m", "pyegress", "run", "-t", "1s", *words)
    done = subprocess.run(
        ["prlimit", "--nofile=8", *words], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "too few files may be open (RLIMIT_NOFILE)" in done.stderr


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """What can't be reopened stays in use; who connects is known all the same."""
    log = tmp_path / "log"
    with running(*audit(log)) as process:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 3))
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        while "cannot open " not in (line := process.stderr.readline()):
            assert line
        assert f"{log}: Too many open files (EMFILE)" in line
        send()
        while not log.read_text().endswith("\n"):
            assert process.poll() is None
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in said
    assert json.loads(log.read_text())["process"]["exe"] == str(Path(sys.executable).resolve())


def test_full_disk(tmp_path: Path) -> None:
    """The output that is on it ends, and is the failure of the run; the other one goes on."""
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=64k none "$0" && dd if=/dev/zero of="$0/filler" 2>/dev/null; exec "$@"'
    words = audit(disk / "log", "-o", "logfmt", "-O", f"logfmt:file:{other}")
    with running(*MOUNTED, script, str(disk), *words) as process:
        send()
        assert process.stderr is not None
        while "cannot write " not in (line := process.stderr.readline()):
            assert line
        assert f"cannot write to {disk}/log: No space left on device (ENOSPC)" in line
        send()
        while other.read_text().count("\n") < 2:
            assert process.poll() is None
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1


def test_read_only_disk(tmp_path: Path) -> None:
    """It is said before anything is observed."""
    script = 'mount -t tmpfs -o ro none "$0" && exec "$@"'
    done = subprocess.run(
        [*MOUNTED, script, str(tmp_path), *audit(tmp_path / "log")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr == f"pyegress: cannot open {tmp_path}/log: Read-only file system (EROFS)\n"


def test_hidden_processes(tmp_path: Path) -> None:
    """With hidepid=2 and a user who isn't root, others' programs have their names all the same."""
    log = tmp_path / "log"
    log.touch()
    os.chown(log, 65534, 65534)
    script = 'mount -t proc -o hidepid=2 none /proc && exec "$@"'
    with running(*MOUNTED, script, "sh", *audit(log, "--user", "nobody")) as process:
        send()
        while not log.read_text().endswith("\n"):
            assert process.poll() is None
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    told = json.loads(log.read_text())
    assert told["process"]["exe"] == str(Path(sys.executable).resolve())
    assert told["process"]["uid"] == 0

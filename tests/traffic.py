# SPDX-License-Identifier: MIT
"""Build and run traffic.c, which makes exact network traffic and prints what it did, and build short.c."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CFLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
NOT_OFFERED = 77


class TrafficError(RuntimeError):
    """The program could not be built, or failed; `status` is NOT_OFFERED where the kernel cannot do it."""

    def __init__(self, what: str, done: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{what} exited with {done.returncode}: {done.stderr.strip()}")
        self.status = done.returncode


@functools.cache
def traffic() -> Path:
    """Return the program, built again if it is older than its sources."""
    return _built("traffic")


@functools.cache
def short() -> Path:
    """Return the program of a process that makes one call and ends at once, built like `traffic`."""
    return _built("short", "-static")


@functools.cache
def volley() -> Path:
    """Return the program of a process that sends for a moment and ends, built like `traffic`."""
    return _built("volley", "-static")


def _built(name: str, *flags: str) -> Path:
    source = FOLDER / f"{name}.c"
    program = FOLDER / name
    newest = max(each.stat().st_mtime for each in (source, *FOLDER.glob("*.h")))
    if program.exists() and program.stat().st_mtime >= newest:
        return program
    if not os.access(FOLDER, os.W_OK):
        own = tempfile.mkdtemp(prefix=f"pyegress-{name}-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        program = Path(own, name)
    # Renamed into place, so that no other process runs half of it.
    with tempfile.TemporaryDirectory(dir=program.parent, prefix=f".{name}-") as scratch:
        built = Path(scratch, name)
        command = ["gcc", *CFLAGS, *flags, "-o", str(built), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TrafficError("gcc", done)
        return built.rename(program)


def run(*args: str | int, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one subcommand and return its line, raising TrafficError with its stderr if it fails."""
    command = [str(traffic()), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise TrafficError(f"traffic {' '.join(command[1:])}", done)
    return done


def words(line: str) -> dict[str, str]:
    """Return what a printed line says."""
    return dict(word.split("=", 1) for word in line.split())


@contextmanager
def held(*args: str | int) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run a subcommand that holds: its process and what its line says; it ends with the block."""
    command = [str(traffic()), *map(str, args)]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            if line := process.stdout.readline():
                yield process, words(line)
        except BaseException:
            process.kill()
            raise
        stdout, stderr = process.communicate(timeout=10)
    if process.returncode or not line:
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        raise TrafficError(f"traffic {' '.join(command[1:])}", done)

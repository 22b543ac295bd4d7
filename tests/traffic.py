# SPDX-License-Identifier: MIT
"""Build and run traffic.c, which makes exact network traffic and prints what it did."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().with_suffix(".c")
CFLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
NOT_OFFERED = 77


class TrafficError(RuntimeError):
    """The program could not be built, or failed; `status` is NOT_OFFERED where the kernel cannot do it."""

    def __init__(self, what: str, done: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{what} exited with {done.returncode}: {done.stderr.strip()}")
        self.status = done.returncode


@functools.cache
def traffic() -> Path:
    """Return the program, built again if it is older than its source."""
    program = SOURCE.with_suffix("")
    if program.exists() and program.stat().st_mtime >= SOURCE.stat().st_mtime:
        return program
    if not os.access(program.parent, os.W_OK):
        own = tempfile.mkdtemp(prefix="pyegress-traffic-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        program = Path(own, program.name)
    # Renamed into place, so that no other process runs half of it.
    with tempfile.TemporaryDirectory(dir=program.parent, prefix=".traffic-") as scratch:
        built = Path(scratch, program.name)
        command = ["gcc", *CFLAGS, "-o", str(built), str(SOURCE)]
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

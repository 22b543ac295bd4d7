# SPDX-License-Identifier: MIT
"""What the kernel could not read of a program, from /proc, only where /proc still shows that very program.

A number in /proc is the same process when its start time is the one that the kernel saw, to the clock tick, and the
same program when its arguments are at the same address: each exec gets a new one by chance. In doubt nothing of /proc
is used. Fields: proc_pid_stat(5); the address is shown only to who may trace the process.
"""

from __future__ import annotations

import errno
import os
from enum import Enum
from pathlib import Path
from typing import NamedTuple

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
ARGS_BYTES = 4096
"""More arguments are cut: an attacker's may be megabytes."""
_FIELDS = (0, 1, 3, 6, 19, 45)
"""Places of those of Stat behind the name in brackets."""
_PF_KTHREAD = 0x0020_0000


class Missing(Enum):
    """Why /proc does not tell."""

    GONE = "the process was gone"
    CHANGED = "the process ran another program"
    FORBIDDEN = "no permission"


class Found(NamedTuple):
    """What /proc showed of a program."""

    exe: str | None
    args: bytes
    """Each ended by NUL."""
    cut: bool


class Stat(NamedTuple):
    """A part of /proc/PID/stat."""

    comm: bytes
    state: bytes
    parent: int
    session: int
    kernel: bool
    """A kernel thread."""
    start_ns: int
    """To the clock tick."""
    arg_start: int
    """Zero to those who may not know, and for a process that has ended."""


def parse_stat(line: bytes) -> Stat | None:
    """What the line says; None where it is not whole."""
    # The name in the brackets may hold anything, brackets too.
    name, _, behind = line.rpartition(b") ")
    fields = behind.split()
    try:
        state, parent, session, flags, start, arg_start = (fields[place] for place in _FIELDS)
        return Stat(
            name.partition(b"(")[2],
            state,
            int(parent),
            int(session),
            bool(int(flags) & _PF_KTHREAD),
            int(start) * TICK_NS,
            int(arg_start),
        )
    except (IndexError, ValueError):
        return None


def read_file(path: str, limit: int = 4096) -> bytes:
    """The start of a file, by one read: what /proc gives then is of one moment."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def read_exe(folder: str) -> str:
    """Path of the program's file of a process, without the mark of a deleted one."""
    target = os.readlink(f"{folder}/exe".encode())  # noqa: PTH115 (bytes)
    return target.removesuffix(b" (deleted)").decode("utf-8", "surrogateescape")


class Procfs:
    """Reads /proc/PID. `root` is where that is mounted."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = str(root)

    def find(self, pid: int, start_ns: int, arg_start: int) -> Found | Missing:
        """Path and arguments of the program with arguments at that address, in the process with that start."""
        folder = f"{self._root}/{pid}"
        try:
            args = read_file(f"{folder}/cmdline", ARGS_BYTES + 1)
            exe = read_exe(folder)
            # The stat comes last: what was read before it is of a process with this start time or an older one.
            stat = parse_stat(read_file(f"{folder}/stat"))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM) or self._is_hidden(pid):
                return Missing.FORBIDDEN
            return Missing.GONE
        if stat is None or stat.start_ns != start_ns // TICK_NS * TICK_NS:
            return Missing.GONE
        if stat.arg_start == 0:
            return Missing.GONE if stat.state in (b"Z", b"X") else Missing.FORBIDDEN
        if stat.arg_start != arg_start:
            return Missing.CHANGED
        return Found(exe, args[:ARGS_BYTES], len(args) > ARGS_BYTES)

    def _is_hidden(self, pid: int) -> bool:
        """Whether a process that /proc doesn't show is there: hidepid leaves others' out."""
        if self._root != "/proc":
            return False
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return not Path(self._root, str(pid)).exists()

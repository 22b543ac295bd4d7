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
_START_TIME = 19
_ARG_START = 45
"""Places of both behind the name in brackets."""


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


class Procfs:
    """Reads /proc/PID. `root` is where that is mounted."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = str(root)

    def find(self, pid: int, start_ns: int, arg_start: int) -> Found | Missing:
        """Path and arguments of the program with arguments at that address, in the process with that start."""
        try:
            args = self._read(pid, "cmdline", ARGS_BYTES + 1)
            exe = self._exe(pid)
            # The stat comes last: what was read before it is of a process with this start time or an older one.
            stat = self._read(pid, "stat", 4096)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM) or self._is_hidden(pid):
                return Missing.FORBIDDEN
            return Missing.GONE
        # The name in the brackets may hold anything, brackets too.
        fields = stat.rpartition(b") ")[2].split()
        if len(fields) <= _ARG_START or fields[_START_TIME] != b"%d" % (start_ns // TICK_NS):
            return Missing.GONE
        if not fields[_ARG_START].isdigit():
            return Missing.GONE
        shown = int(fields[_ARG_START])
        if shown == 0:
            # Zero to those who may not know, and for a process that has ended.
            return Missing.GONE if fields[0] in (b"Z", b"X") else Missing.FORBIDDEN
        if shown != arg_start:
            return Missing.CHANGED
        return Found(exe, args[:ARGS_BYTES], len(args) > ARGS_BYTES)

    def _exe(self, pid: int) -> str | None:
        target = os.readlink(f"{self._root}/{pid}/exe".encode())  # noqa: PTH115 (bytes)
        return target.removesuffix(b" (deleted)").decode("utf-8", "surrogateescape")

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

    def _read(self, pid: int, name: str, limit: int) -> bytes:
        fd = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)

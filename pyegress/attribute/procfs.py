# SPDX-License-Identifier: MIT
"""What /proc knows of a process that the kernel named, taken only where it still is that process.

A number in /proc is the same process when its start time is the one the kernel saw, to the clock tick, and the same
program when its comm is: in doubt nothing of /proc is used. Fields: proc_pid_stat(5).
"""

from __future__ import annotations

import os
import pwd
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pyegress.losses import Losses
from pyegress.record import Process, Seen

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
COMM_BYTES = 15
CMDLINE_BYTES = 4096
"""Longer command lines are cut: an attacker's arguments may be megabytes."""
_PARENTS_KEPT = 16384
_PF_KTHREAD = 0x00200000


class _Stat(NamedTuple):
    comm: str
    parent: int
    kernel: bool
    start_ticks: int


class ProcfsResolver:
    """Makes a Process of what the kernel saw and what /proc adds to it.

    With `usable` false /proc numbers processes differently (another pid namespace) and nothing is read.
    """

    def __init__(self, losses: Losses, usable: bool = True, root: Path = Path("/proc")) -> None:
        self._losses = losses
        self._usable = usable
        self._root = str(root)
        self._parents: dict[tuple[int, int, str], Process] = {}

    def resolve(self, seen: Seen) -> Process:
        """The process as it was when it connected, with its parent and grandparent where known."""
        stat, cmdline, exe = self._details(seen.pid, seen.start_ns // TICK_NS, seen.comm)
        if stat is None and self._usable:
            self._losses.add(
                "unattributed", "without details: processes gone or changed before /proc was read"
            )
        return Process(
            pid=seen.pid,
            start_ns=seen.start_ns,
            comm=seen.comm,
            name=full_name(seen.comm, cmdline, exe, seen.kernel),
            exe=exe,
            cmdline=cmdline,
            uid=seen.uid,
            gid=seen.gid,
            user=user_name(seen.uid),
            cgroup_id=seen.cgroup_id,
            kernel=seen.kernel,
            parent=self._parent(seen) if seen.parent_pid else None,
        )

    def _parent(self, seen: Seen) -> Process:
        key = (seen.parent_pid, seen.parent_start_ns, seen.parent_comm)
        found = self._parents.get(key)
        # An exec of a program with the same comm shows in the arguments alone.
        if found is None or (found.cmdline is not None and found.cmdline != self._cmdline(found.pid)):
            if len(self._parents) >= _PARENTS_KEPT:
                del self._parents[next(iter(self._parents))]
            found = self._parents[key] = self._ancestor(*key)
        return found

    def _ancestor(self, pid: int, start_ns: int, comm: str) -> Process:
        stat, cmdline, exe = self._details(pid, start_ns // TICK_NS, comm)
        grandparent = self._grandparent(stat.parent, pid, stat) if stat and stat.parent else None
        return self._process(pid, start_ns, comm, stat, cmdline, exe, grandparent)

    def _grandparent(self, pid: int, child: int, child_stat: _Stat) -> Process | None:
        stat = self._stat(pid)
        if stat is None or stat.start_ticks > child_stat.start_ticks:
            return None
        same, cmdline, exe = self._details(pid, stat.start_ticks, stat.comm)
        if same is None:
            return None
        found = self._process(pid, stat.start_ticks * TICK_NS, stat.comm, same, cmdline, exe, None)
        # Still its child after all was read: then the number was not given to another process meanwhile.
        return found if self._stat(child) == child_stat else None

    def _process(
        self,
        pid: int,
        start_ns: int,
        comm: str,
        stat: _Stat | None,
        cmdline: str | None,
        exe: str | None,
        parent: Process | None,
    ) -> Process:
        """An ancestor; without a stat only the kernel's word for it is known."""
        uid = self._uid(pid) if stat else None
        kernel = stat.kernel if stat else False
        return Process(
            pid=pid,
            start_ns=start_ns,
            comm=comm,
            name=full_name(comm, cmdline, exe, kernel),
            exe=exe,
            cmdline=cmdline,
            uid=uid,
            user=user_name(uid) if uid is not None else None,
            kernel=kernel,
            parent=parent,
        )

    def _details(self, pid: int, start_ticks: int, comm: str) -> tuple[_Stat | None, str | None, str | None]:
        """Stat, command line and executable, all None unless that program still runs."""
        if not self._usable:
            return None, None, None
        cmdline = self._cmdline(pid)
        exe = self._exe(pid)
        # The stat comes last: what was read before it is of a process with this start time or an older one.
        stat = self._stat(pid)
        if stat is None or stat.start_ticks != start_ticks:
            return None, None, None
        # /proc adds the work queue to a kworker's name, which the kernel's comm lacks.
        if stat.comm != comm and not (stat.kernel and stat.comm.startswith(comm)):
            return None, None, None
        return stat, cmdline, exe

    def _cmdline(self, pid: int) -> str | None:
        raw = self._read(pid, "cmdline", CMDLINE_BYTES)
        return raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "surrogateescape") if raw else None

    def _stat(self, pid: int) -> _Stat | None:
        raw = self._read(pid, "stat", 4096)
        head, separator, tail = (raw or b"").rpartition(b") ")
        if not separator:
            return None
        fields = tail.split()
        comm = head.partition(b" (")[2].decode("utf-8", "surrogateescape")
        return _Stat(comm, int(fields[1]), bool(int(fields[6]) & _PF_KTHREAD), int(fields[19]))

    def _uid(self, pid: int) -> int | None:
        for line in (self._read(pid, "status", 4096) or b"").splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
        return None

    def _exe(self, pid: int) -> str | None:
        try:
            target = os.readlink(f"{self._root}/{pid}/exe".encode())  # noqa: PTH115 (bytes)
            return target.removesuffix(b" (deleted)").decode("utf-8", "surrogateescape")
        except OSError:
            return None

    def _read(self, pid: int, name: str, limit: int) -> bytes | None:
        try:
            fd = os.open(f"{self._root}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.read(fd, limit)
        except OSError:
            return None
        finally:
            os.close(fd)


def full_name(comm: str, cmdline: str | None, exe: str | None, kernel: bool) -> str:
    """The name without the kernel's cut at 15 bytes, where the program or its arguments tell it.

    A kernel thread's worker number is left out, so that `kworker/3:1` and `kworker/u8:0` are one name.
    """
    if kernel:
        return comm.partition("/")[0]
    # Not os.fsencode: the locale has no say in what a kernel's bytes mean.
    cut = comm.encode("utf-8", "surrogateescape")
    if len(cut) < COMM_BYTES:
        return comm
    arguments = (cmdline or "").split(" ", 2)[:2]
    for candidate in (exe or "", *arguments):
        base = candidate.rpartition("/")[2]
        if base.encode("utf-8", "surrogateescape").startswith(cut):
            return base
    return comm


@lru_cache(maxsize=4096)
def user_name(uid: int) -> str:
    """The user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

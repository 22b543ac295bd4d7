# SPDX-License-Identifier: MIT
"""Processes that are there, as /proc shows them: the same object as long as nothing of it has changed.

Each part stands for itself: what can't be read is None, and the rest is told all the same.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from pyegress.attribute.containers import ContainerNames, whereabouts
from pyegress.attribute.names import full_name, script_of, split_args, user_name
from pyegress.attribute.procfs import ARGS_BYTES, Stat, parse_stat, read_exe, read_file
from pyegress.record import Process

ANCESTORS = 8
KEPT = 16384
BUSY = 64
"""Of so many processes, those asked for last, files are kept open."""
_KEPT_OPEN = ("stat", "status", "cmdline", "cgroup")
_NO_LOGIN = (1 << 32) - 1
SOCK_DIAG = "sock_diag"
PROC = "proc"


class _Shown(NamedTuple):
    """What can change while a process runs, less its parent."""

    stat: Stat
    """Without state and parent."""
    uid: int | None
    gid: int | None
    args: bytes | None
    cgroups: bytes | None
    exe: str | None
    """Where addresses aren't random, another program's arguments can be at the same one."""


class _Files:
    """What /proc tells of one process, kept open: read again for half of what opening it takes.

    They stay those of that very process: once it has ended, reading fails, whoever has its number then.
    """

    __slots__ = ("_fds",)

    def __init__(self, folder: str) -> None:
        """Raises OSError where one can't be opened."""
        self._fds: dict[str, int] = {}
        try:
            for name in _KEPT_OPEN:
                self._fds[name] = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def read(self, name: str, limit: int) -> bytes:
        """The start of a file; raises OSError."""
        return os.pread(self._fds[name], limit, 0)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


class Living:
    """For any thread. `forbidden` is called when /proc would have told more with more rights.

    `cgroup_root` is where cgroup v2 is mounted whole; numbers of v1's cgroups are not looked for.
    """

    def __init__(
        self,
        forbidden: Callable[[], None],
        names: ContainerNames | None = None,
        cgroup_root: Path | None = None,
        root: Path = Path("/proc"),
        kept: int = KEPT,
    ) -> None:
        self._forbidden = forbidden
        self._names = names or ContainerNames()
        self._cgroup_root = cgroup_root
        self._root = str(root)
        self._capacity = kept
        self._lock = RLock()
        self._kept: OrderedDict[tuple[int, int], tuple[_Shown, Process]] = OrderedDict()
        self._open: OrderedDict[tuple[int, int], _Files] = OrderedDict()
        self._ancestors: dict[tuple[int, int, int], Process] = {}
        """By number, start, and how many levels of parents are kept above."""

    def process(self, pid: int, start_ns: int) -> Process | None:
        """The process with that number and start; None where it is no more."""
        key = pid, start_ns
        with self._lock:
            shown = self._shown(pid, self._files_of(key))
            if shown is None or shown.stat.start_ns != start_ns:
                return None
            before = self._kept.pop(key, None)
            if before is None or before[0] != shown:
                parent = before[1].parent if before else self._parent(pid, start_ns)
                made = self._made(pid, shown, SOCK_DIAG, parent)
                # In between it may have run another program, or ended and left its number to another process.
                again = self._shown(pid)
                if again is None or again.stat.start_ns != start_ns:
                    return None
                before = again, made if again == shown else self._made(pid, again, SOCK_DIAG, parent)
            self._kept[key] = before
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return before[1]

    def close(self) -> None:
        """Let go of the files that are kept open."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _files_of(self, key: tuple[int, int]) -> _Files | None:
        """Those of a process that is asked for again."""
        files = self._open.pop(key, None)
        if files is None:
            if key not in self._kept:
                return None
            try:
                files = _Files(f"{self._root}/{key[0]}")
            except OSError:
                return None
        self._open[key] = files
        if len(self._open) > BUSY:
            self._open.popitem(last=False)[1].close()
        return files

    def _parent(self, pid: int, start_ns: int, levels: int = ANCESTORS) -> Process | None:
        """The parent of a process, as it was when first seen."""
        stat = self._stat(pid)
        above = self._stat(stat.parent) if stat and stat.parent and levels else None
        if stat is None or above is None or stat.start_ns != start_ns or above.start_ns > start_ns:
            return None
        key = stat.parent, above.start_ns, levels
        found = self._ancestors.get(key)
        if found is None:
            shown = self._shown(stat.parent)
            if shown is None or shown.stat.start_ns != above.start_ns:
                return None
            grandparent = self._parent(stat.parent, above.start_ns, levels - 1)
            found = self._made(stat.parent, shown, PROC, grandparent)
            if len(self._ancestors) >= self._capacity:
                self._ancestors.clear()
            self._ancestors[key] = found
        # A parent that ended left its number: then this process has got another parent.
        after = self._stat(pid)
        return found if after and (after.parent, after.start_ns) == (stat.parent, start_ns) else None

    def _stat(self, pid: int, files: _Files | None = None) -> Stat | None:
        line = self._read(pid, "stat", 4096, files)
        return None if line is None else parse_stat(line)

    def _shown(self, pid: int, files: _Files | None = None) -> _Shown | None:
        stat = self._stat(pid, files)
        if stat is None:
            return None
        uid, gid = self._ids(pid, files)
        return _Shown(
            stat._replace(state=b"", parent=0),
            uid,
            gid,
            self._read(pid, "cmdline", ARGS_BYTES + 1, files),
            self._read(pid, "cgroup", 65536, files),
            None if stat.kernel else self._exe(pid),
        )

    def _ids(self, pid: int, files: _Files | None) -> tuple[int | None, int | None]:
        """The real ones, as the kernel side tells them."""
        status = self._read(pid, "status", 4096, files) or b""
        at = status.find(b"\nUid:\t")
        fields = status[at : at + 200].split(None, 9)
        # `Uid:`, its four, `Gid:`, its four.
        return (int(fields[1]), int(fields[6])) if at >= 0 and len(fields) > 6 else (None, None)

    def _made(self, pid: int, shown: _Shown, attribution: str, parent: Process | None) -> Process:
        stat = shown.stat
        comm = stat.comm.decode("utf-8", "surrogateescape")
        args = split_args(shown.args[:ARGS_BYTES]) if shown.args else []
        leader = self._stat(stat.session) if stat.session else None
        loginuid = self._read(pid, "loginuid", 32)
        login = int(loginuid) if loginuid and loginuid.isdigit() else _NO_LOGIN
        return Process(
            pid=pid,
            start_ns=stat.start_ns,
            comm=comm,
            name=full_name(comm, args, shown.exe, stat.kernel),
            exe=shown.exe,
            cmdline=" ".join(args) or None,
            cmdline_cut=shown.args is not None and len(shown.args) > ARGS_BYTES,
            script=script_of(comm, args, shown.exe),
            uid=shown.uid,
            gid=shown.gid,
            user=None if shown.uid is None else user_name(shown.uid),
            loginuid=None if login == _NO_LOGIN else login,
            session_pid=stat.session or None,
            session_name=leader.comm.decode("utf-8", "surrogateescape") if leader else None,
            **self._where(shown.cgroups),
            netns=self._namespace(pid, "net"),
            pidns=self._namespace(pid, "pid"),
            kernel=stat.kernel,
            attribution=attribution,
            parent=parent,
        )

    def _where(self, cgroups: bytes | None) -> dict[str, Any]:
        """Its place in v2, or in v1's `pids` or `memory` where v2 says no more than the root."""
        paths = {}
        for line in (cgroups or b"").splitlines():
            _, controllers, path = line.split(b":", 2)
            for controller in controllers.split(b","):
                paths[controller] = path.decode("utf-8", "surrogateescape")
        unified = paths.get(b"")
        in_v1 = [paths[name] for name in (b"pids", b"memory") if paths.get(name, "/") != "/"]
        if unified in (None, "/") and in_v1:
            return whereabouts(in_v1[0], self._names)
        if unified is None:
            return {}
        return {"cgroup_id": self._cgroup_id(unified), **whereabouts(unified, self._names)}

    def _cgroup_id(self, path: str) -> int | None:
        if self._cgroup_root is None:
            return None
        try:
            return Path(f"{self._cgroup_root}{path}").stat().st_ino
        except (OSError, ValueError):
            return None

    def _exe(self, pid: int) -> str | None:
        try:
            return read_exe(f"{self._root}/{pid}")
        except PermissionError:
            self._forbidden()
        except OSError:
            pass
        return None

    def _namespace(self, pid: int, kind: str) -> int | None:
        try:
            target = os.readlink(f"{self._root}/{pid}/ns/{kind}")  # noqa: PTH115 (speed)
        except OSError:
            return None
        return int(target.partition("[")[2].rstrip("]"))

    def _read(self, pid: int, name: str, limit: int, files: _Files | None = None) -> bytes | None:
        try:
            return files.read(name, limit) if files else read_file(f"{self._root}/{pid}/{name}", limit)
        except OSError:
            return None

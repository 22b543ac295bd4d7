# SPDX-License-Identifier: MIT
"""The programs that the kernel told of, and the Process that each event's program is.

Details come once for a program, before the first event that needs them; so do the paths of cgroups. Both tables are
bounded: what is forgotten here is forgotten in the kernel too, which then tells it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from pyegress.attribute.containers import ContainerNames, whereabouts
from pyegress.attribute.names import full_name, script_of, split_args, user_name
from pyegress.attribute.procfs import Found, Missing, Procfs
from pyegress.record import DETAILS_LOST, CgroupPath, Details, Identity, Process, Seen

PROGRAMS = 4096
CGROUPS = 4096
ANCESTORS = 8
_REFRESHED = 64
"""Levels that are kept from being forgotten: more than one event shows, for those that start further up."""
KERNEL = "kernel"
PROC = "proc"


_NOWHERE: dict[str, Any] = {}


class _Known(NamedTuple):
    details: Details
    where: dict[str, Any]
    """What its cgroup's path tells: kept, because the kernel tells the path no more for a program that it told of."""


class _Program(NamedTuple):
    exe: str | None
    args: bytes | None
    cut: bool
    attribution: str


class ProcessTable:
    """Programs by identity. For one thread.

    `forget_program` and `forget_cgroup` are told what is dropped here. `forbidden` is called when /proc would have
    told more with more rights.
    """

    def __init__(
        self,
        forget_program: Callable[[Identity], None],
        forget_cgroup: Callable[[int], None],
        forbidden: Callable[[], None],
        procfs: Procfs | None = None,
        names: ContainerNames | None = None,
        programs: int = PROGRAMS,
        cgroups: int = CGROUPS,
    ) -> None:
        self._forget_program = forget_program
        self._forget_cgroup = forget_cgroup
        self._forbidden = forbidden
        self._procfs = procfs or Procfs()
        self._names = names or ContainerNames()
        self._capacity = programs
        self._cgroup_capacity = cgroups
        self._programs: OrderedDict[Identity, _Known] = OrderedDict()
        self._ancestors: dict[Identity, dict[int, Process]] = {}
        """By how many levels of parents are kept above."""
        self._missed: set[Identity] = set()
        """Ancestors that were looked for in vain."""
        self._cgroups: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self.has_gaps = False
        """Some process was resolved without all that is to be known of it."""

    def add(self, told: Details | CgroupPath) -> None:
        """Take what the kernel told."""
        if isinstance(told, CgroupPath):
            self._add_cgroup(told)
            return
        identity = told.seen.identity
        older = self._programs.pop(identity, None)
        where = self._cgroups.get(told.seen.cgroup_id, _NOWHERE)
        if older is not None:
            told = _merged(told, older.details)
            where = where or older.where
        if identity in self._ancestors or identity in self._missed:
            # Whoever has it as an ancestor was made with what was known then.
            self._ancestors.clear()
            self._missed.clear()
        self._programs[identity] = _Known(told, where)
        self._refresh_ancestors(told)
        if len(self._programs) > self._capacity:
            oldest, _ = self._programs.popitem(last=False)
            self._ancestors.pop(oldest, None)
            self._forget_program(oldest)

    def _refresh_ancestors(self, details: Details) -> None:
        """Make them newer than their descendants: the kernel does not tell ancestors of a program that it told of."""
        parent = details.parent
        for _ in range(_REFRESHED):
            above = self._programs.pop(parent, None) if parent else None
            if parent is None or above is None:
                break
            self._programs[parent] = above
            parent = above.details.parent

    def resolve(self, seen: Seen) -> Process:
        """The process as it was when it connected; its `attribution` is DETAILS_LOST where details never came."""
        known = self._programs.get(seen.identity)
        if known is None:
            self.has_gaps = True
            return self._process(seen, None, _Program(None, None, False, DETAILS_LOST), None)
        program = self._program(known.details, own=True)
        return self._process(seen, known, program, self._ancestor(known.details.parent, ANCESTORS))

    def _ancestor(self, identity: Identity | None, levels: int) -> Process | None:
        known = self._programs.get(identity) if identity else None
        if identity is None or levels == 0:
            return None
        if known is None:
            if len(self._missed) >= self._capacity:
                self._missed.clear()
                self._ancestors.clear()
            self._missed.add(identity)
            return None
        by_levels = self._ancestors.setdefault(identity, {})
        found = by_levels.get(levels)
        if found is None:
            details = known.details
            program = self._program(details, own=False)
            found = self._process(details.seen, known, program, self._ancestor(details.parent, levels - 1))
            by_levels[levels] = found
        return found

    def _program(self, details: Details, own: bool) -> _Program:
        """Path and arguments, from /proc where the kernel could not read them."""
        incomplete = details.fault or details.args is None
        if not incomplete or details.seen.kernel:
            return _Program(details.exe, details.args, details.args_cut, KERNEL)
        told = self._find(details)
        if isinstance(told, Found):
            return _Program(details.exe or told.exe, told.args, told.cut, PROC)
        if not own:  # an ancestor's arguments are an extra
            return _Program(details.exe, details.args, details.args_cut, KERNEL)
        self.has_gaps = True
        why = f"kernel: without arguments or path, {told.value}"
        return _Program(details.exe, details.args, details.args_cut, why)

    def _find(self, details: Details) -> Found | Missing:
        if details.local_pid is None or not details.arg_start:
            return Missing.GONE
        found = self._procfs.find(details.local_pid, details.seen.identity.start_ns, details.arg_start)
        if found is Missing.FORBIDDEN:
            self._forbidden()
        return found

    def _process(
        self, seen: Seen, known: _Known | None, program: _Program, parent: Process | None
    ) -> Process:
        args = split_args(program.args)
        details = known.details if known else None
        where = self._cgroups.get(seen.cgroup_id, _NOWHERE)
        if known and known.details.seen.cgroup_id == seen.cgroup_id:
            where = where or known.where
        return Process(
            pid=(details.local_pid if details else None) or seen.identity.tgid,
            start_ns=seen.identity.start_ns,
            comm=seen.comm,
            name=full_name(seen.comm, args, program.exe, seen.kernel),
            exe=program.exe,
            cmdline=" ".join(args) or None,
            cmdline_cut=program.cut,
            script=script_of(seen.comm, args, program.exe),
            uid=seen.uid,
            gid=seen.gid,
            user=user_name(seen.uid),
            loginuid=details.loginuid if details else None,
            session_pid=details.session_pid if details else None,
            session_name=details.session_comm if details else None,
            cgroup_id=seen.cgroup_id or None,
            **where,
            netns=details.netns if details else None,
            pidns=details.pidns if details else None,
            kernel=seen.kernel,
            attribution=program.attribution,
            parent=parent,
        )

    def have_all_told_again(self) -> None:
        """Forget in the kernel what programs were told, so that each is again at its next event."""
        for identity in self._programs:
            self._forget_program(identity)

    def of_cgroup(self, path: str) -> Process:
        """Any process of a cgroup: what is known of all of them."""
        return Process(pid=0, **whereabouts(path, self._names))

    def _add_cgroup(self, told: CgroupPath) -> None:
        self._cgroups.pop(told.cgroup_id, None)
        if len(self._cgroups) >= self._cgroup_capacity:
            oldest, _ = self._cgroups.popitem(last=False)
            self._forget_cgroup(oldest)
        self._cgroups[told.cgroup_id] = whereabouts(told.path, self._names)


def _merged(told: Details, before: Details) -> Details:
    """What is told anew of a program, with what was known of it.

    Told as an ancestor (without a cgroup) it has no arguments, and less room for its path.
    """
    seen = told.seen if told.seen.cgroup_id else told.seen._replace(cgroup_id=before.seen.cgroup_id)
    exe = told.exe or before.exe
    had_args = told.args is not None
    args, cut = (told.args, told.args_cut) if had_args else (before.args, before.args_cut)
    fault = (told.fault or before.fault) and (args is None or exe is None)
    return told._replace(seen=seen, exe=exe, args=args, args_cut=cut, fault=fault)

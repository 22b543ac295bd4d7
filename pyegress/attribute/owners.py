# SPDX-License-Identifier: MIT
"""From a socket to the one process that holds it.

Descriptors are copied by fork, so whoever holds a socket either made it or has it from an ancestor who held it. What
follows from that, for a holder P and any other process Q whose descriptors were read at a time S without the socket:

1. Q can hold it now only if Q made it after S, for a descriptor is inherited at birth or never.
2. If P itself was once read without it, P made it. Then only those born since can hold it too, and they are read when
   they are first met.
3. Otherwise P may have it from an ancestor. If S is later than P's birth, that is not Q: Q would have made the socket
   after P was born. So only those that were last read before P's birth have to be read again: P's ancestors, or all
   of them where the line of ancestors can't be trusted because an orphan was given to another parent.

Not covered: a socket that was handed over (SCM_RIGHTS, pidfd_getfd) and is still held by both, a process that shares
its table with another (CLONE_FILES) or a thread that has its own, numbers of processes that were set by hand, and a
holder that ended before it was looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pyegress.attribute.census import LONGEST, Census, Member, is_socket
from pyegress.attribute.cgroup import walk

AMBIGUOUS = "ambiguous"
FORBIDDEN = "no permission"
NOBODY = "held by no process"
"""A socket of the kernel's own, or one that only io_uring or a message in flight has."""
OTHER_NAMESPACE = "other namespace"
_NO_OTHER = "no other process holds it"

QUICK_LINKS = 1500
"""So many descriptors are read by `find`: some milliseconds."""
QUICK_PROCESSES = 1000
"""Of no more processes does `find` ask how many descriptors they have."""
RECENT = 32
NOBODY_NS = 10_000_000_000
"""For so long a socket that nobody holds isn't searched for again."""
CGROUPS_NS = 1_000_000_000
"""The paths of cgroups are listed again after this time."""
_NOBODIES = 1024
_ROUNDS = 4
_RECENT_READ = 4
_NEXT = 5
_GENERATIONS = 64
_CGROUP_MEMBERS = 32
_INITIAL_PID_NAMESPACE = 0xEFFF_FFFC
"""PROC_PID_INIT_INO of linux/proc_ns.h."""


class Holder(NamedTuple):
    """A process, and its descriptor for the socket."""

    pid: int
    start_ns: int
    fd: int
    folder: str
    """Where its descriptors are."""


class _Budget:
    """How many descriptors may still be read; None: all."""

    def __init__(self, links: int | None) -> None:
        self.links = links

    def spend(self, links: int) -> None:
        if self.links is not None:
            self.links = max(0, self.links - links)


class Owners:
    """`find` is for one thread, `search` for another one at the same time.

    `may_trace` tells whether we have CAP_SYS_PTRACE; `forbidden` is called when /proc would have told more with it.
    `cgroup_root` is where cgroup v2 is mounted.
    """

    def __init__(
        self,
        may_trace: Callable[[], bool],
        forbidden: Callable[[], None],
        cgroup_root: Path | None = None,
        root: Path = Path("/proc"),
        census: Census | None = None,
    ) -> None:
        self._may_trace = may_trace
        self._forbidden = forbidden
        self._root = root
        self._cgroup_root = cgroup_root
        self._cgroups: dict[int, str] = {}
        self._cgroups_ns = 0
        self._recent: dict[Member, int] = {}
        """The last descriptor that was looked for, by process, the latest process last."""
        self._nobody: dict[int, tuple[int, str]] = {}
        """Until when that is taken for granted, and why nobody was found, by inode."""
        self._searching = Lock()
        self._census = census or Census(root)
        self._census.look()
        self._meet(_Budget(None))
        self._list_cgroups()

    def find(self, inode: int, cgroup_id: int | None = None) -> Holder | str | None:
        """The one holder, or why there is none to tell; None where only `search` can tell."""
        budget = _Budget(QUICK_LINKS)
        self._census.look()
        if not self._meet(budget):
            return None
        holders = self._holders(inode)
        if holders:
            return self._judge(holders, inode, cgroup_id, budget)
        until_ns, reason = self._nobody.get(inode, (0, ""))
        if time.monotonic_ns() < until_ns:
            return reason
        return self._hunt(inode, budget)

    def search(self, inodes: Mapping[int, int | None]) -> dict[int, Holder | str]:
        """The same of many sockets, by their inodes with their owners, surely: by reading everything if need be."""
        with self._searching:
            found: dict[int, Holder | str] = {}
            unlimited = _Budget(None)
            self._list_cgroups()
            self._census.look(thoroughly=True)
            self._meet(unlimited)
            left = set(inodes)
            self._settle(left, found, whole=False)
            left -= found.keys()
            for member in self._most_likely_first({inodes[inode] for inode in left}):
                if not left:
                    break
                self._read(member, unlimited)
                if not left.isdisjoint(member.sockets):
                    self._settle(left & member.sockets.keys(), found, whole=False)
                    left -= found.keys()
            is_whole = False
            for _ in range(_ROUNDS):
                # Those born meanwhile, and meanwhile, each time fewer.
                self._census.look(thoroughly=True)
                is_whole = not self._census.new()
                if is_whole:
                    break
                self._meet(unlimited)
            self._settle(left, found, whole=is_whole)
            found.update(dict.fromkeys(left - found.keys(), AMBIGUOUS))
            return found

    def holds(self, holder: Holder, inode: int) -> bool:
        """Whether it holds the socket still."""
        return is_socket(holder.folder, holder.fd, inode)

    def close(self) -> None:
        """Look no more."""
        self._census.close()

    def _settle(self, inodes: Iterable[int], found: dict[int, Holder | str], whole: bool) -> None:
        for inode in list(inodes):
            holders = self._holders(inode)
            if len(holders) == 1 and whole:
                found[inode] = self._only(*holders[0], inode)
            elif holders:
                verdict = self._judge(holders, inode, None, _Budget(None))
                if verdict is not None:
                    found[inode] = verdict
            elif whole:
                while len(self._nobody) >= _NOBODIES:
                    del self._nobody[next(iter(self._nobody))]
                found[inode] = reason = self._missed()
                self._nobody[inode] = time.monotonic_ns() + NOBODY_NS, reason

    def _holders(self, inode: int) -> list[tuple[Member, int]]:
        """Those that hold it now, of those that are known to have held it."""
        return [
            (member, fd)
            for member in self._census.holders(inode)
            if (fd := member.sockets.get(inode)) is not None and is_socket(member.folder, fd, inode)
        ]

    def _judge(
        self, holders: list[tuple[Member, int]], inode: int, cgroup_id: int | None, budget: _Budget
    ) -> Holder | str | None:
        """The verdict on a socket with known holders; None where others may have it too."""
        if len(holders) > 1:
            return AMBIGUOUS
        member, fd = holders[0]
        if inode in member.inherited:
            verdict = self._others(member, inode, cgroup_id, budget)
            if verdict != _NO_OTHER:
                return verdict
        return self._only(member, fd, inode)

    def _only(self, member: Member, fd: int, inode: int) -> Holder | str:
        """The holder that no other process shares it with."""
        if any(other.parent == member.pid for other in self._census.unreadable()):
            self._forbidden()
            return FORBIDDEN
        member.inherited.discard(inode)
        self._recent.pop(member, None)
        self._recent[member] = fd
        for oldest in list(self._recent)[:-RECENT]:
            self._recent.pop(oldest, None)
        return Holder(member.pid, member.start_ns, fd, member.folder)

    def _others(self, member: Member, inode: int, cgroup_id: int | None, budget: _Budget) -> str | None:
        """_NO_OTHER, or why there is none to tell; None where that isn't sure."""
        born_by_ns = member.born_by_ns
        suspects = [
            other for other in self._census.members() if other.scanned_ns < born_by_ns and other is not member
        ]
        if not suspects:
            return _NO_OTHER
        child = member
        for _ in range(_GENERATIONS):
            above = self._above(child)
            if above is None:
                return self._others_in_cgroup(cgroup_id, suspects, inode, budget)
            if not above.readable:
                self._forbidden()
                return FORBIDDEN
            # Read before its child's birth and without the socket, it can only have made it since.
            is_end = 0 < above.ended_ns <= child.born_after_ns and inode not in above.sockets
            if above.scanned_ns < born_by_ns and not self._read(above, budget):
                return None
            if self._holds_by_now(above, inode):
                return AMBIGUOUS
            if is_end:
                return _NO_OTHER
            child = above
        return None

    def _above(self, child: Member) -> Member | None:
        """Its parent; None where that may be one to which it was given as an orphan.

        Those are the first of a pid namespace, and services which start programs in sessions of their own.
        """
        current = self._census.member(child.pid)
        parent = self._census.member(current.parent) if current else None
        if parent is None or parent.is_init or parent.pid == 1 or parent.session != child.session:
            return None
        return parent if parent.start_ns <= child.start_ns else None

    def _others_in_cgroup(
        self, cgroup_id: int | None, suspects: list[Member], inode: int, budget: _Budget
    ) -> str | None:
        """The same, when it is known in which cgroup the socket was made.

        Whoever made it is there still, unless it was moved; the root cgroup tells nothing.
        """
        path = self._cgroups.get(cgroup_id or 0, "/")
        if path == "/" or self._cgroup_root is None:
            return None
        try:
            pids = set(map(int, Path(f"{self._cgroup_root}{path}/cgroup.procs").read_text().split()))
        except (OSError, ValueError):
            return None
        inside = [other for other in suspects if other.pid in pids]
        if len(inside) > _CGROUP_MEMBERS:
            return None
        for other in inside:
            if not other.readable or not self._read(other, budget):
                return None
            if self._holds_by_now(other, inode):
                return AMBIGUOUS
        return _NO_OTHER

    def _holds_by_now(self, member: Member, inode: int) -> bool:
        fd = member.sockets.get(inode)
        return fd is not None and is_socket(member.folder, fd, inode)

    def _hunt(self, inode: int, budget: _Budget) -> Holder | str | None:
        """Among those that were read without it: whoever has it, made it."""
        recent = [(member, fd) for member, fd in reversed(list(self._recent.items()))]
        for place, (member, last) in enumerate(recent):
            # Who opens one after another and keeps them gets the next numbers.
            for fd in range(last, last + (_NEXT if place < _RECENT_READ else 1)):
                if is_socket(member.folder, fd, inode):
                    self._census.note(member, inode, fd)
                    return self._only(member, fd, inode)
        lately = [member for member, _ in recent]
        changed = [member for member in lately if self._may_have_more(member)]
        # One may have closed as many as it opened.
        changed += [member for member in lately[:_RECENT_READ] if member not in changed]
        found = self._read_until(changed, inode, budget)
        if found is not None:
            return found
        members = self._census.members()
        if len(members) > QUICK_PROCESSES:
            return None
        others = [one for one in members if one not in self._recent and self._may_have_more(one)]
        others.sort(key=lambda member: -member.start_ns)
        return self._read_until(others, inode, budget)

    def _read_until(self, members: Iterable[Member], inode: int, budget: _Budget) -> Holder | str | None:
        """Read them one after another until the socket is found."""
        for member in members:
            if budget.links == 0:
                break
            scan = self._census.scan(member, budget.links, inode)
            budget.spend(scan.read)
            fd = scan.sockets.get(inode)
            if fd is None:
                self._census.store(member, scan)
                continue
            self._census.note(member, inode, fd)
            member.length = scan.length
            return self._only(member, fd, inode)
        return None

    def _may_have_more(self, member: Member) -> bool:
        """Whether it has another number of descriptors than when last read; before 6.2 that isn't told."""
        length = self._census.length(member)
        return length != member.length or length == 0

    def _read(self, member: Member, budget: _Budget) -> bool:
        """Read its descriptors again; whether that was done."""
        if budget.links == 0:
            return False
        scan = self._census.scan(member, budget.links)
        budget.spend(scan.read)
        self._census.store(member, scan)
        return scan.is_whole or scan.gone

    def _meet(self, budget: _Budget) -> bool:
        """Read those that were never read; whether all were."""
        return all(self._read(member, budget) or not member.readable for member in self._census.new())

    def _most_likely_first(self, uids: set[int | None]) -> list[Member]:
        def rank(member: Member) -> tuple[bool, bool, bool, int]:
            length = self._census.length(member)
            # One process with a million descriptors must not hold up the search for all others' sockets.
            return (length > LONGEST, length == member.length > 0, member.uid not in uids, -member.start_ns)

        return sorted((one for one in self._census.members() if one.scanned_ns < 1 << 62), key=rank)

    def _missed(self) -> str:
        """Why no process was found to hold it."""
        if self._census.unreadable() or (self._is_hiding() and not self._may_trace()):
            self._forbidden()
            return FORBIDDEN
        if self._is_inside():
            return OTHER_NAMESPACE
        return NOBODY

    def _is_hiding(self) -> bool:
        """Whether /proc is mounted with hidepid."""
        try:
            lines = Path(self._root, "self/mountinfo").read_bytes().splitlines()
        except OSError:
            return False
        mounted = [line for line in lines if line.split(b" ")[4] == str(self._root).encode()]
        return bool(mounted) and b"hidepid=" in mounted[-1].rpartition(b" - ")[2]

    def _is_inside(self) -> bool:
        """Whether this is a pid namespace, whose /proc leaves out the others' processes."""
        try:
            return Path(self._root, "self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE
        except OSError:
            return False

    def _list_cgroups(self) -> None:
        now_ns = time.monotonic_ns()
        if self._cgroup_root is not None and now_ns >= self._cgroups_ns:
            self._cgroups = dict(walk(self._cgroup_root))
            self._cgroups_ns = now_ns + CGROUPS_NS

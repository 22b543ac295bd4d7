# SPDX-License-Identifier: MIT
"""From a socket to the one process that holds it.

Descriptors are copied by fork, so whoever holds a socket either made it or has it from an ancestor who held it. What
follows from that, for a holder P and any other process Q whose descriptors were read at a time S without the socket:

1. Q can hold it now only if Q made it after S, for a descriptor is inherited at birth or never.
2. If P itself was once read without it, P made it. Then only those born since can hold it too, and they are read when
   they are first met.
3. Otherwise P may have it from an ancestor. If S is later than P's birth, that is not Q: Q would have made the socket
   after P was born. So only those that were last read before P's birth have to be read again: P's ancestors.
4. An ancestor A that was read without the socket before the birth of the next one below it made it later than that or
   never had it; so nobody above A has it.

An orphan is given to a subreaper that is its ancestor, past those between, who may have the socket too. So those below
such an A are read as well. Where they are too many, parents of the same session are trusted, as subreapers mostly have
another; parents of other sessions only if A had no children at that reading, so that all its heirs are below it. Where
an orphan was given to the first process of its namespace, everybody has to be read.

Not covered: a socket that was handed over (SCM_RIGHTS, pidfd_getfd) and is still held by both, a process that shares
its table with another (CLONE_FILES) or a thread that has its own, a thread that closes the socket while another one
forks, a subreaper (or CLONE_PARENT) with many children in the orphan's own session, numbers of processes that were set
by hand, and a holder that ended before it was looked for.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from pyegress.attribute.census import LONGEST, Census, Member, Scan, is_socket
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
_BELOW = 16
_SCAN = 8
"""To begin a reading takes as long as to read so many descriptors."""
_INITIAL_PID_NAMESPACE = 0xEFFF_FFFC
"""PROC_PID_INIT_INO of linux/proc_ns.h."""


class Holder(NamedTuple):
    """A process, and its descriptor for the socket."""

    pid: int
    start_ns: int
    fd: int
    folder: str
    """Where its descriptors are."""


class _Held(NamedTuple):
    member: Member
    fd: int
    folder: str


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
        self._nobody: OrderedDict[int, tuple[int, str]] = OrderedDict()
        """Until when that is taken for granted, and why nobody was found, by inode."""
        self._searching = Lock()
        self._census = census or Census(root)
        self._census.look()
        self._meet(_Budget(None))
        self._list_cgroups()

    def find(self, inode: int, cgroup_id: int | None = None) -> Holder | str | None:
        """The one holder, or why there is none to tell; None where only `search` can tell."""
        try:
            return self._find(inode, cgroup_id, _Budget(QUICK_LINKS))
        except OSError:
            return None

    def search(self, inodes: Mapping[int, int | None]) -> dict[int, Holder | str]:
        """The same of many sockets, by their inodes with their owners, surely: by reading everything if need be."""
        with self._searching:
            found: dict[int, Holder | str] = {}
            began_ns = self._census.now_ns()
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
            if not is_whole and all(member.born_after_ns >= began_ns for member in self._census.new()):
                # Whoever was born since has sent nothing that is looked for. It may only share what it holds.
                left = {inode for inode in left if self._is_held_since(inode, began_ns)}
                is_whole = True
            self._settle(left, found, whole=is_whole)
            left = set(inodes)
            found.update(dict.fromkeys(left - found.keys(), AMBIGUOUS))
            return found

    def holds(self, holder: Holder, inode: int) -> bool:
        """Whether it holds the socket still."""
        return is_socket(holder.folder, holder.fd, inode)

    def close(self) -> None:
        """Look no more."""
        self._census.close()

    def _find(self, inode: int, cgroup_id: int | None, budget: _Budget) -> Holder | str | None:
        self._census.look()
        if not self._meet(budget):
            return None
        holders = self._holders(inode, budget)
        if holders is None:
            return None
        if holders:
            return self._judge(holders, inode, cgroup_id, budget)
        until_ns, reason = self._nobody.get(inode, (0, ""))
        if time.monotonic_ns() < until_ns:
            return reason
        return self._hunt(inode, budget)

    def _settle(self, inodes: Iterable[int], found: dict[int, Holder | str], whole: bool) -> None:
        for inode in list(inodes):
            holders = self._holders(inode, _Budget(None))
            if holders is None:
                if whole:
                    found[inode] = self._unsure(inode)
            elif holders:
                verdict = self._judge(holders, inode, None, _Budget(None))
                if verdict is None and whole:
                    verdict = self._only(holders[0], inode)
                if verdict is not None:
                    found[inode] = verdict
            elif whole:
                while len(self._nobody) >= _NOBODIES:
                    self._nobody.popitem(last=False)
                found[inode] = reason = self._missed()
                self._nobody[inode] = time.monotonic_ns() + NOBODY_NS, reason

    def _is_held_since(self, inode: int, by_ns: int) -> bool:
        """Whether those that are known to have held it are older than that."""
        return all(member.born_by_ns <= by_ns for member in self._census.holders(inode))

    def _unsure(self, inode: int) -> str:
        """Why those that are known to have held it can't be asked."""
        if all(member.readable for member in self._census.holders(inode)):
            return AMBIGUOUS
        self._forbidden()
        return FORBIDDEN

    def _holders(self, inode: int, budget: _Budget) -> list[_Held] | None:
        """Those that hold it now, of those that are known to have held it; None where that isn't sure."""
        found = []
        for member in self._census.holders(inode):
            held = self._held(member, inode, budget)
            if held is None:
                return None
            if held:
                found.append(held)
        return found

    def _held(self, member: Member, inode: int, budget: _Budget) -> _Held | Literal[False] | None:
        """Its descriptor for the socket; None where it isn't sure whether it has one."""
        fd = member.sockets.get(inode)
        if fd is None:
            return False
        if is_socket(member.folder, fd, inode):
            return _Held(member, fd, member.folder)
        # It may have moved the socket to another number, or its main thread may have ended.
        if budget.links == 0:
            return None
        scan = self._scan(member, budget)
        fd = scan.sockets.get(inode)
        if fd is not None:
            return _Held(member, fd, scan.folder)
        return False if scan.is_whole or scan.gone else None

    def _judge(
        self, holders: list[_Held], inode: int, cgroup_id: int | None, budget: _Budget
    ) -> Holder | str | None:
        """The verdict on a socket with known holders; None where others may have it too."""
        if len(holders) > 1:
            return AMBIGUOUS
        if inode in holders[0].member.inherited:
            verdict = self._others(holders[0].member, inode, cgroup_id, budget)
            if verdict != _NO_OTHER:
                return verdict
        return self._only(holders[0], inode)

    def _only(self, held: _Held, inode: int) -> Holder | str:
        """The holder that no other process shares it with."""
        member = held.member
        if any(self._may_be_heir(other, member) for other in self._census.unreadable()):
            self._forbidden()
            return FORBIDDEN
        member.inherited.discard(inode)
        self._recent.pop(member, None)
        self._recent[member] = held.fd
        for oldest in list(self._recent)[:-RECENT]:
            self._recent.pop(oldest, None)
        return Holder(member.pid, member.start_ns, held.fd, held.folder)

    def _may_be_heir(self, other: Member, member: Member) -> bool:
        """Whether another process may come from that one, as far as can be told from the parents they had."""
        if other.start_ns < member.start_ns:
            return False
        at = other
        for _ in range(_GENERATIONS):
            above = self._census.recorded(at.parent)
            if above is member:
                return True
            if above is None or above.start_ns > at.start_ns or above.is_init or above.pid == 1:
                # An orphan may be anybody's.
                return at.session == member.session
            at = above
        return True

    def _others(self, member: Member, inode: int, cgroup_id: int | None, budget: _Budget) -> str | None:
        """_NO_OTHER, or why there is none to tell; None where that isn't sure."""
        child = member
        trusted = True
        for _ in range(_GENERATIONS):
            above = self._above(child)
            if above is None:
                return self._others_in_cgroup(member, cgroup_id, inode, budget)
            if not above.readable:
                self._forbidden()
                return FORBIDDEN
            trusted = trusted and above.session == child.session
            made_later = 0 < above.ended_ns <= child.born_after_ns and inode not in above.sockets
            is_bare = above.lacked(inode, child.born_after_ns)
            has = self._has_by_now(above, member, inode, budget)
            if has is not False:
                return AMBIGUOUS if has else None
            if is_bare or (trusted and made_later):
                verdict = self._others_below(above, member, inode, budget)
                return _NO_OTHER if verdict is None and trusted and made_later else verdict
            child = above
        return None

    def _above(self, child: Member) -> Member | None:
        """Its parent; None where that may be none of its ancestors: an orphan goes to the first of its namespace."""
        if self._census.member(child.pid) is not child:
            return None
        parent = self._census.member(child.parent)
        if parent is None or parent.is_init or parent.pid == 1:
            return None
        return parent if parent.start_ns <= child.start_ns else None

    def _others_below(self, top: Member, member: Member, inode: int, budget: _Budget) -> str | None:
        """The same, when nobody has it but `top` and those that come from it."""
        left = [top.pid]
        for seen in count():
            if not left:
                return _NO_OTHER
            children = self._census.children(left.pop())
            if children is None or seen + len(left) + len(children) > _BELOW:
                return None
            for pid in children:
                other = self._census.member(pid)
                if other is None or other is member or other.born_after_ns > member.born_by_ns:
                    continue
                left.append(pid)
                has = self._has_by_now(other, member, inode, budget)
                if has is not False:
                    return AMBIGUOUS if has else None
        raise AssertionError("the count doesn't end")

    def _others_in_cgroup(
        self, member: Member, cgroup_id: int | None, inode: int, budget: _Budget
    ) -> str | None:
        """The same, when it is known in which cgroup the socket was made.

        Whoever made it is there still, unless it was moved; the root cgroup tells nothing.
        """
        suspects = {one.pid: one for one in self._census.members() if one.scanned_ns < member.born_by_ns}
        suspects.pop(member.pid, None)
        if not suspects:
            return _NO_OTHER
        path = self._cgroups.get(cgroup_id or 0, "/")
        if path == "/" or self._cgroup_root is None:
            return None
        try:
            pids = list(map(int, Path(f"{self._cgroup_root}{path}/cgroup.procs").read_text().split()))
        except (OSError, ValueError):
            return None
        inside = [suspects[pid] for pid in pids if pid in suspects]
        if len(inside) > _CGROUP_MEMBERS:
            return None
        for other in inside:
            has = self._has_by_now(other, member, inode, budget) if other.readable else None
            if has is not False:
                return AMBIGUOUS if has else None
        return _NO_OTHER

    def _has_by_now(self, other: Member, member: Member, inode: int, budget: _Budget) -> bool | None:
        """Whether another process has the socket; None where that isn't sure."""
        if other.scanned_ns < member.born_by_ns:
            if budget.links == 0:
                return None
            scan = self._scan(other, budget)
            return inode in scan.sockets if scan.is_whole or scan.gone else None
        held = self._held(other, inode, budget)
        return None if held is None else bool(held)

    def _hunt(self, inode: int, budget: _Budget) -> Holder | str | None:
        """Among those that were read without it: whoever has it, made it."""
        recent = [(member, fd) for member, fd in reversed(list(self._recent.items()))]
        for place, (member, last) in enumerate(recent):
            # Who opens one after another and keeps them gets the next numbers.
            for fd in range(last, last + (_NEXT if place < _RECENT_READ else 1)):
                if is_socket(member.folder, fd, inode):
                    return self._hunted(_Held(member, fd, member.folder), inode)
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
            scan = self._scan(member, budget, inode)
            fd = scan.sockets.get(inode)
            if fd is not None:
                member.length = scan.length
                return self._hunted(_Held(member, fd, scan.folder), inode)
        return None

    def _hunted(self, held: _Held, inode: int) -> Holder | str | None:
        """The one that made the socket, unless the other thread has met it or its heirs meanwhile."""
        return self._only(held, inode) if self._census.note(held.member, inode, held.fd) else None

    def _may_have_more(self, member: Member) -> bool:
        """Whether it has another number of descriptors than when last read; before 6.2 that isn't told."""
        length = self._census.length(member)
        return length != member.length or length == 0

    def _read(self, member: Member, budget: _Budget) -> bool:
        """Read its descriptors again; whether that was done."""
        if budget.links == 0:
            return False
        scan = self._scan(member, budget)
        return scan.is_whole or scan.gone

    def _scan(self, member: Member, budget: _Budget, until: int = 0) -> Scan:
        scan = self._census.scan(member, budget.links, until)
        budget.spend(scan.read + _SCAN)
        self._census.store(member, scan)
        return scan

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

# SPDX-License-Identifier: MIT
"""The processes of the host and the sockets that each holds, kept up to date by looking only at what can be new.

A process is met when its number is given out: /proc/loadavg tells the last one. Its descriptors are read then, and
again only when somebody asks for that.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock

from pyegress.attribute.procfs import TICK_NS, Stat, parse_stat, read_file
from pyegress.errors import UnsupportedError

PROBED = 64
"""So many numbers are tried one by one; for more, /proc is listed."""
MISSING_NS = 50_000_000
"""A number is given out before its process can be seen: for so long it is looked for again."""
MISSING = 64
LONGEST = 20_000
"""A longer list of descriptors takes 10 ms and more to get: a limited reading leaves it alone."""
TRUSTED_NS = 1_000_000_000
"""Within this time the numbers can't have gone round."""
_FOREVER = 1 << 62
_SPARE = 1024
_MARKS = 64


class Member:
    """A process, and its sockets as they were when last read."""

    __slots__ = (
        "born_after_ns",
        "born_by_ns",
        "ended_ns",
        "folder",
        "inherited",
        "is_init",
        "length",
        "parent",
        "pid",
        "readable",
        "scanned_ns",
        "session",
        "sockets",
        "start_ns",
        "uid",
    )

    def __init__(self, pid: int, stat: Stat, uid: int, is_init: bool, folder: str) -> None:
        self.pid = pid
        self.start_ns = stat.start_ns
        self.born_after_ns = stat.start_ns
        self.born_by_ns = stat.start_ns + TICK_NS
        """Sharper than the clock tick where it was met at once."""
        self.parent = stat.parent
        self.session = stat.session
        self.uid = uid
        self.is_init = is_init
        """The first of its pid namespace, to which orphans are given."""
        self.sockets: dict[int, int] = {}
        """Descriptor by inode number."""
        self.inherited: set[int] = set()
        """Those of them that were there at the first reading, so that an ancestor may have made them."""
        self.scanned_ns = self.ended_ns = _FOREVER if stat.kernel else 0
        """Start and end of the last whole reading; 0: never."""
        self.length = 0
        """Number of descriptors then; 0 before 6.2."""
        self.readable = True
        self.folder = folder
        """Where its descriptors are."""


class Scan:
    """One reading of a process' descriptors."""

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self.ended_ns = 0
        self.sockets: dict[int, int] = {}
        self.read = 0
        """So many descriptors were read."""
        self.is_whole = False
        self.readable = True
        self.gone = False
        self.folder = ""
        self.length = 0


class Census:
    """For any thread. `root` is where /proc is mounted; raises UnsupportedError where that lacks what is needed.

    Its memory grows with the processes and open sockets that the host has at a time.
    """

    def __init__(self, root: Path = Path("/proc"), clock: Callable[[], int] | None = None) -> None:
        self._root = str(root)
        self._clock = clock or _boot_ns
        self._lock = Lock()
        self._members: dict[int, Member] = {}
        self._holders: dict[int, tuple[Member, ...]] = {}
        self._new: dict[int, Member] = {}
        self._missing: dict[int, int] = {}
        self._unreadable: dict[int, Member] = {}
        try:
            self._loadavg = os.open(f"{self._root}/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnsupportedError(
                f"{self._root} shows processes only, not loadavg; mount it without subset=pid (systemd: ProcSubset=all)"
            ) from error
        self._last_pid = -1
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MARKS)
        """The last number given out, and an earlier time, at each reading since the last look."""
        self._forks = 0
        self._looked_ns = 0
        self._listed = 0
        self._pid_max = self._number("sys/kernel/pid_max", 1 << 22)
        self.began_ns = self._clock()
        """No reading is older: what was born before had all its inherited descriptors."""

    def close(self) -> None:
        """Look no more."""
        os.close(self._loadavg)

    def members(self) -> list[Member]:
        """All that were met and not found to have ended."""
        return list(self._members.values())

    def new(self) -> list[Member]:
        """Those whose descriptors were never read."""
        return list(self._new.values())

    def unreadable(self) -> list[Member]:
        """Those whose descriptors we may not read."""
        return list(self._unreadable.values())

    def member(self, pid: int) -> Member | None:
        """Who has that number, if it still is that process."""
        member = self._members.get(pid)
        if member is None:
            return None
        stat = self.stat(pid)
        if stat is None or stat.start_ns != member.start_ns:
            return None
        member.parent, member.session = stat.parent, stat.session
        return member

    def stat(self, pid: int) -> Stat | None:
        """What /proc tells of a process now."""
        try:
            return parse_stat(read_file(f"{self._root}/{pid}/stat"))
        except OSError:
            return None

    def holders(self, inode: int) -> tuple[Member, ...]:
        """Those that held the socket when last read."""
        return self._holders.get(inode, ())

    def length(self, member: Member) -> int:
        """How many descriptors it has now; 0 before 6.2."""
        try:
            return os.stat(member.folder).st_size  # noqa: PTH116 (speed)
        except OSError:
            return 0

    def look(self, thoroughly: bool = False) -> None:
        """Meet the processes that were born since the last look; thoroughly: without trusting in numbers."""
        with self._lock:
            now_ns = self._clock()
            last = self._last_pid
            marks = [(last, self._looked_ns), *self._marks]
            self._marks.clear()
            self._last_pid = self._read_last_pid()
            # Others also count: in a pid namespace this is more than were born here.
            forks = self._forks
            is_sure = now_ns - self._looked_ns < TRUSTED_NS
            if not is_sure or thoroughly:
                self._forks = self._total_forks()
                is_sure = last >= 0 and self._forks - forks < self._pid_max // 2
            self._looked_ns = now_ns
            if thoroughly or not is_sure or len(self._members) > 2 * self._listed + _SPARE:
                self._list(None if not is_sure else last)
            elif last != self._last_pid:
                self._meet_between(last, marks)
            self._meet_late(now_ns)

    def scan(self, member: Member, limit: int | None = None, until: int = 0) -> Scan:
        """Read its descriptors, the highest first; no more than `limit`, and no further than that inode.

        What was read is not yet taken: see `store`.
        """
        scan = Scan(self._clock())
        scan.folder = f"{self._root}/{member.pid}/fd"
        try:
            scan.length = os.stat(scan.folder).st_size  # noqa: PTH116 (speed)
            if limit is not None and scan.length > LONGEST:
                return scan
            names = os.listdir(scan.folder)  # noqa: PTH208 (speed)
            if not names:
                scan.folder, names = self._of_other_thread(member.pid)
            self._read_links(scan, names, limit, until)
        except PermissionError:
            scan.readable = False
        except OSError:
            scan.gone = True
        scan.ended_ns = self._clock()
        self._marks.append((self._read_last_pid(), scan.ended_ns))
        return scan

    def store(self, member: Member, scan: Scan) -> None:
        """Take what was read, unless something newer is known."""
        with self._lock:
            if self._members.get(member.pid) is not member:
                return
            if scan.gone:
                self._drop(member)
            elif not scan.readable:
                member.readable = False
                self._unreadable[member.pid] = member
                self._new.pop(member.pid, None)
            elif scan.is_whole and scan.began_ns >= member.scanned_ns:
                self._replace(member, scan)

    def note(self, member: Member, inode: int, fd: int) -> None:
        """It was seen to hold a socket, without a whole reading."""
        with self._lock:
            if self._members.get(member.pid) is member and inode not in member.sockets:
                member.sockets[inode] = fd
                self._holders[inode] = (*self._holders.get(inode, ()), member)

    def _replace(self, member: Member, scan: Scan) -> None:
        for inode in member.sockets.keys() - scan.sockets.keys():
            self._release(member, inode)
        for inode in scan.sockets.keys() - member.sockets.keys():
            self._holders[inode] = (*self._holders.get(inode, ()), member)
        if member.scanned_ns:
            member.inherited &= scan.sockets.keys()
        elif member.born_by_ns >= self.began_ns:
            member.inherited = set(scan.sockets)
        member.sockets = scan.sockets
        member.scanned_ns, member.ended_ns = scan.began_ns, scan.ended_ns
        member.folder, member.length = scan.folder, scan.length
        member.readable = True
        self._new.pop(member.pid, None)
        self._unreadable.pop(member.pid, None)

    def _release(self, member: Member, inode: int) -> None:
        left = tuple(other for other in self._holders.get(inode, ()) if other is not member)
        if left:
            self._holders[inode] = left
        else:
            self._holders.pop(inode, None)

    def _drop(self, member: Member) -> None:
        for inode in member.sockets:
            self._release(member, inode)
        for known in (self._members, self._new, self._unreadable):
            known.pop(member.pid, None)

    def _read_links(self, scan: Scan, names: list[str], limit: int | None, until: int) -> None:
        prefix = f"{scan.folder}/"
        for name in reversed(names):
            if scan.read == limit:
                return
            scan.read += 1
            try:
                target = os.readlink(prefix + name)  # noqa: PTH115 (speed)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                scan.sockets[inode] = int(name)
                if inode == until:
                    return
        scan.is_whole = True

    def _of_other_thread(self, pid: int) -> tuple[str, list[str]]:
        """Where the main thread has ended before the others, it has no descriptors any more, but they have."""
        folder = f"{self._root}/{pid}/task"
        for task in os.listdir(folder):  # noqa: PTH208 (speed)
            inner = f"{folder}/{task}/fd"
            if names := os.listdir(inner):  # noqa: PTH208 (speed)
                return inner, names
        return f"{self._root}/{pid}/fd", []

    def _meet_between(self, last: int, marks: list[tuple[int, int]]) -> None:
        gap = self._last_pid - last
        if not 0 < gap <= PROBED:
            self._list(last)
            return
        for pid in range(last + 1, self._last_pid + 1):
            before_ns = max(then_ns for given, then_ns in marks if given < pid)
            if not self._meet(pid, before_ns) and len(self._missing) < MISSING:
                self._missing[pid] = self._looked_ns

    def _meet_late(self, now_ns: int) -> None:
        for pid, missed_ns in list(self._missing.items()):
            if self._meet(pid) or now_ns - missed_ns > MISSING_NS:
                del self._missing[pid]

    def _list(self, last: int | None) -> None:
        """Meet all that were given a number after `last`, or all whatever; forget those that have ended."""
        pids = {int(name) for name in os.listdir(self._root) if name.isdigit()}  # noqa: PTH208 (speed)
        for pid in self._members.keys() - pids:
            self._drop(self._members[pid])
        for pid in pids:
            if pid not in self._members or last is None or self._is_between(pid, last):
                self._meet(pid)
        newest = range(max(1, self._last_pid - MISSING + 1), self._last_pid + 1)
        self._missing = {pid: self._looked_ns for pid in newest if pid not in pids and not self._meet(pid)}
        self._listed = len(self._members)

    def _is_between(self, pid: int, last: int) -> bool:
        if last <= self._last_pid:
            return last < pid <= self._last_pid
        return pid > last or pid <= self._last_pid

    def _meet(self, pid: int, before_ns: int = 0) -> bool:
        """Whether the number is taken, by a thread or by a process, which then is known."""
        folder = f"{self._root}/{pid}"
        try:
            stat = parse_stat(read_file(f"{folder}/stat"))
            known = self._members.get(pid)
            if known and stat and known.start_ns == stat.start_ns:
                return True
            status = read_file(f"{folder}/status")
        except OSError:
            return False
        if stat is None:
            return False
        fields = dict(_fields(status.splitlines()))
        if fields.get(b"Tgid") != [b"%d" % pid]:
            return True
        if known:
            self._drop(known)
        is_init = fields.get(b"NSpid", [b""])[-1] == b"1"
        member = Member(pid, stat, int(fields.get(b"Uid", [b"0"])[0]), is_init, f"{folder}/fd")
        member.born_after_ns = max(member.born_after_ns, before_ns)
        member.born_by_ns = min(member.born_by_ns, self._clock())
        self._members[pid] = member
        if not stat.kernel:
            self._new[pid] = member
        return True

    def _read_last_pid(self) -> int:
        return int(os.pread(self._loadavg, 128, 0).split()[4])

    def _total_forks(self) -> int:
        for line in read_file(f"{self._root}/stat", 1 << 20).splitlines():
            if line.startswith(b"processes "):
                return int(line.split()[1])
        return 0

    def _number(self, name: str, default: int) -> int:
        try:
            return int(read_file(f"{self._root}/{name}"))
        except (OSError, ValueError):
            return default


def is_socket(folder: str, fd: int, inode: int) -> bool:
    """Whether that descriptor is that socket now."""
    try:
        return os.readlink(f"{folder}/{fd}") == f"socket:[{inode}]"  # noqa: PTH115 (speed)
    except OSError:
        return False


def _fields(lines: Iterable[bytes]) -> Iterable[tuple[bytes, list[bytes]]]:
    for line in lines:
        name, _, value = line.partition(b":")
        yield name, value.split()


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

# SPDX-License-Identifier: MIT
"""The processes of the host and the sockets that each holds, kept up to date by looking only at what can be new.

A process is met when its number is given out: /proc/loadavg tells the last one. Its descriptors are read then, and
again only when somebody asks for that.
"""

from __future__ import annotations

import fcntl
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
MISSING_NS = 10_000_000
"""A number is given out a little before the kernel knows what it is for: so long one without a use is watched."""
LATE_NS = 1_000_000_000
"""And longer before its process can be seen: so long one in use is watched. Many are of groups and sessions."""
MISSING = 64
LONGEST = 20_000
"""A longer list of descriptors takes 10 ms and more to get: a limited reading leaves it alone."""
TRUSTED_NS = 1_000_000_000
BIRTH_NS = 2_500
"""Within TRUSTED_NS, or so long for each number there is, the numbers can't have gone round."""
THREADS = 16
"""Of a process with more threads it isn't asked whose parents they are."""
_FOREVER = 1 << 62
_SPARE = 1024
_MARKS = 64
_LISTINGS = 3


class Member:
    """A process, and its sockets as they were when last read."""

    __slots__ = (
        "bare",
        "born_after_ns",
        "born_by_ns",
        "ended_ns",
        "folder",
        "inherited",
        "is_init",
        "length",
        "noted",
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
        self.bare: tuple[int, dict[int, int]] = (0, {})
        """End of the last one at which it had no children, and what it held then."""
        self.noted: dict[int, int] = {}
        """Inode by descriptor of those that were seen since."""
        self.length = 0
        """Number of descriptors then; 0 before 6.2."""
        self.readable = True
        self.folder = folder
        """Where its descriptors are."""

    def lacked(self, inode: int, by_ns: int) -> bool:
        """Whether it once had neither that socket nor children, by that time."""
        ended_ns, sockets = self.bare
        return 0 < ended_ns <= by_ns and inode not in sockets


class Scan:
    """One reading of a process' descriptors."""

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self.ended_ns = 0
        self.sockets: dict[int, int] = {}
        self.read = 0
        """So many descriptors were read."""
        self.is_whole = False
        self.childless = False
        self.readable = True
        self.gone = False
        self.folder = ""
        self.length = 0


class Census:
    """For any thread. `root` is where /proc is mounted; raises UnsupportedError where that lacks what is needed.

    Its memory grows with the processes and open sockets that the host has at a time. `look` and `scan` raise OSError
    where /proc can't be read, as without a free descriptor; the next look then trusts in nothing.
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

    def now_ns(self) -> int:
        """By the clock of births and readings."""
        return self._clock()

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

    def recorded(self, pid: int) -> Member | None:
        """Who had that number when last met."""
        return self._members.get(pid)

    def children(self, pid: int) -> list[int] | None:
        """Numbers of its children; None where they can't be told, as of kernels without CONFIG_PROC_CHILDREN."""
        folder = f"{self._root}/{pid}/task"
        try:
            tasks = os.listdir(folder)  # noqa: PTH208 (speed)
            if len(tasks) > THREADS:
                return None
            found = self._children_of(folder, tasks)
            # Where one ends meanwhile the kernel may leave out another, or move those of a thread to one read before.
            if (found or len(tasks) > 1) and (
                os.listdir(folder) != tasks or self._children_of(folder, tasks) != found  # noqa: PTH208 (speed)
            ):
                return None
        except OSError:
            return None
        return found

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
            try:
                self._look(thoroughly)
            except OSError:
                self._last_pid, self._looked_ns = -1, 0
                raise

    def _look(self, thoroughly: bool) -> None:
        now_ns = self._clock()
        last = self._last_pid
        since_ns = self._looked_ns
        marks = [(last, since_ns), *self._marks]
        self._marks.clear()
        self._last_pid = self._read_last_pid()
        # Others also count: in a pid namespace this is more than were born here.
        forks = self._forks
        is_sure = now_ns - self._looked_ns < min(TRUSTED_NS, self._pid_max * BIRTH_NS)
        if not is_sure or thoroughly:
            self._forks = self._total_forks()
            is_sure = last >= 0 and self._forks - forks < self._pid_max // 2
        self._looked_ns = now_ns
        if thoroughly or not is_sure or len(self._members) > 2 * self._listed + _SPARE:
            self._list(last if is_sure else None, since_ns)
        elif last != self._last_pid:
            self._meet_between(last, marks, since_ns)
        self._meet_late(now_ns)

    def scan(self, member: Member, limit: int | None = None, until: int = 0) -> Scan:
        """Read its descriptors, the highest first; no more than `limit`, and no further than that inode.

        What was read is not yet taken: see `store`.
        """
        scan = Scan(self._clock())
        scan.folder = f"{self._root}/{member.pid}/fd"
        try:
            scan.length = os.stat(scan.folder).st_size  # noqa: PTH116 (speed)
            if limit is None or self._is_short(member.pid, scan.length):
                self._read_links(scan, member.pid, limit, until)
        except PermissionError:
            scan.readable = False
        except (FileNotFoundError, ProcessLookupError):
            scan.gone = True
        scan.ended_ns = self._clock()
        if scan.is_whole:
            scan.childless = self.children(member.pid) == []
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

    def note(self, member: Member, inode: int, fd: int) -> bool:
        """It was seen to hold a socket, without a whole reading; whether that is news of one that was read without."""
        with self._lock:
            if (
                self._members.get(member.pid) is not member
                or not member.scanned_ns
                or inode in member.sockets
            ):
                return False
            before = member.noted.get(fd)
            if before is not None:
                member.sockets.pop(before, None)
                self._release(member, before)
            member.noted[fd] = inode
            member.sockets[inode] = fd
            self._holders[inode] = (*self._holders.get(inode, ()), member)
            return True

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
        member.noted.clear()
        if scan.childless:
            member.bare = scan.ended_ns, scan.sockets
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

    def _is_short(self, pid: int, length: int) -> bool:
        """Whether its list of descriptors is got soon: before 6.2 /proc tells only how many it had at a time."""
        if length:
            return length <= LONGEST
        status = dict(_fields(read_file(f"{self._root}/{pid}/status").splitlines()))
        return int(status.get(b"FDSize", [b"0"])[0]) <= 2 * LONGEST

    def _read_links(self, scan: Scan, pid: int, limit: int | None, until: int) -> None:
        seen: set[str] = set()
        # Listed again, because a descriptor may have been moved to a number that wasn't in the list yet.
        for _ in range(_LISTINGS):
            folder, names = self._listed_descriptors(pid)
            if folder != scan.folder:
                scan.folder, seen = folder, set()
            fresh = [name for name in reversed(names) if name not in seen]
            if not fresh:
                break
            seen.update(fresh)
            if not self._read_each(scan, fresh, limit, until):
                return
        scan.is_whole = True

    def _read_each(self, scan: Scan, names: Iterable[str], limit: int | None, until: int) -> bool:
        prefix = f"{scan.folder}/"
        for name in names:
            if scan.read == limit:
                return False
            scan.read += 1
            try:
                target = os.readlink(prefix + name)  # noqa: PTH115 (speed)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                scan.sockets[inode] = int(name)
                if inode == until:
                    return False
        return True

    def _listed_descriptors(self, pid: int) -> tuple[str, list[str]]:
        """Where the main thread has ended before the others, it has no descriptors any more, but they have."""
        folder = f"{self._root}/{pid}/fd"
        names = os.listdir(folder)  # noqa: PTH208 (speed)
        if names:
            return folder, names
        for task in os.listdir(f"{self._root}/{pid}/task"):  # noqa: PTH208 (speed)
            inner = f"{self._root}/{pid}/task/{task}/fd"
            try:
                names = os.listdir(inner)  # noqa: PTH208 (speed)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if names:
                return inner, names
        return folder, []

    def _children_of(self, folder: str, tasks: Iterable[str]) -> list[int]:
        return [int(child) for task in tasks for child in read_file(f"{folder}/{task}/children").split()]

    def _meet_between(self, last: int, marks: list[tuple[int, int]], since_ns: int) -> None:
        gap = self._last_pid - last
        if not 0 < gap <= PROBED:
            self._list(last, since_ns)
            return
        for pid in range(last + 1, self._last_pid + 1):
            before_ns = max(then_ns for given, then_ns in marks if given < pid)
            if not self._meet(pid, before_ns):
                self._missing[pid] = self._looked_ns
        for pid in list(self._missing)[:-MISSING]:
            del self._missing[pid]

    def _meet_late(self, now_ns: int) -> None:
        for pid, missed_ns in list(self._missing.items()):
            used = self._is_used(pid)
            if (used and self._meet(pid)) or now_ns - missed_ns > (LATE_NS if used else MISSING_NS):
                del self._missing[pid]

    def _is_used(self, pid: int) -> bool:
        """Whether the number is given out. F_SETOWN asks just that, and does nothing to /proc/loadavg."""
        if self._root != "/proc":
            return os.path.exists(f"{self._root}/{pid}")  # noqa: PTH110 (speed)
        try:
            fcntl.fcntl(self._loadavg, fcntl.F_SETOWN, pid)
        except ProcessLookupError:
            return False
        return True

    def _list(self, last: int | None, since_ns: int) -> None:
        """Meet all that were given a number after `last`, and so since then, or all; forget those that have ended."""
        pids = {int(name) for name in os.listdir(self._root) if name.isdigit()}  # noqa: PTH208 (speed)
        for pid in self._members.keys() - pids:
            self._drop(self._members[pid])
        for pid in pids:
            is_new = last is not None and self._is_between(pid, last)
            if is_new or last is None or pid not in self._members:
                self._meet(pid, since_ns if is_new else 0)
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
            if b"\nNSpid:" not in status:
                # It is behind the supplementary groups, of which there may be 65,536.
                status = read_file(f"{folder}/status", 1 << 20)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
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

# SPDX-License-Identifier: MIT
"""Every process is met, its descriptors are read once, and nothing older is taken for news."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.attribute.census import (
    LONGEST,
    MISSING,
    MISSING_NS,
    PROBED,
    TRUSTED_NS,
    Census,
    Member,
    is_socket,
)
from pyegress.attribute.procfs import TICK_NS
from pyegress.errors import UnsupportedError
from tests.attribute.acting import acting, ending, needs_root

PID_MAX = 32768


class FakeHost:
    """A /proc of made-up processes, and a clock that stands still."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 1_000_000_000_000
        (root / "sys/kernel").mkdir(parents=True)
        (root / "sys/kernel/pid_max").write_text(f"{PID_MAX}\n")
        self.count(100, 1000)

    def count(self, last_pid: int, forks: int | None = None) -> None:
        """What the kernel counts."""
        (self.root / "loadavg").write_text(f"0.00 0.01 0.05 1/99 {last_pid}\n")
        if forks is not None:
            (self.root / "stat").write_text(f"cpu 1 2\nctxt 7\nprocesses {forks}\nprocs_running 1\n")

    def add(self, pid: int, *inodes: int, start: int = 100, tgid: int | None = None, flags: int = 0) -> None:
        """Let a process with these sockets run."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / f"task/{pid}").mkdir(parents=True)
        (folder / f"task/{pid}/fd").symlink_to("../../fd")
        fields = [b"0"] * 50
        fields[0], fields[1], fields[6], fields[19] = b"S", b"1", b"%d" % flags, b"%d" % start
        (folder / "stat").write_bytes(b"%d (x) %s\n" % (pid, b" ".join(fields)))
        (folder / "status").write_text(f"Name:\tx\nTgid:\t{tgid or pid}\nUid:\t5\t6\t7\t8\nNSpid:\t{pid}\n")
        self.open(pid, *inodes)

    def open(self, pid: int, *inodes: int) -> None:
        """Give it sockets."""
        folder = self.root / f"{pid}/fd"
        for inode in inodes:
            (folder / str(len(list(folder.iterdir())))).symlink_to(f"socket:[{inode}]")

    def end(self, pid: int) -> None:
        """Let it end."""
        shutil.rmtree(self.root / str(pid))

    def census(self) -> Census:
        """After its first look."""
        made = Census(self.root, lambda: self.now_ns)
        made.look()
        return made


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """With one process, of number 100."""
    made = FakeHost(tmp_path)
    made.add(100, 7, 8)
    return made


def pids(census: Census) -> set[int]:
    """Numbers of the members."""
    return {member.pid for member in census.members()}


def read(census: Census, pid: int) -> Member:
    """A member whose descriptors were read just now."""
    (member,) = (one for one in census.members() if one.pid == pid)
    census.store(member, census.scan(member))
    return member


def holding(census: Census, inode: int) -> set[int]:
    """Numbers of those that held it."""
    return {member.pid for member in census.holders(inode)}


class TestLook:
    """Who was born."""

    def test_all_that_are_there_at_first(self, host: FakeHost) -> None:
        """Threads are no processes, and kernel threads have nothing to be read."""
        host.add(101, tgid=100)
        host.add(2, flags=0x0020_0000)
        census = host.census()
        assert pids(census) == {100, 2}
        assert [member.pid for member in census.new()] == [100]
        (member,) = census.new()
        assert (member.uid, member.start_ns) == (5, 100 * TICK_NS)

    def test_own_host(self) -> None:
        """The real one has us."""
        census = Census()
        census.look()
        assert {1, os.getpid()} <= pids(census)

    def test_born_since(self, host: FakeHost) -> None:
        """By the numbers given out since, without listing anything."""
        census = host.census()
        host.add(103)
        host.add(20)
        host.count(103)
        census.look()
        assert pids(census) == {100, 103}

    @pytest.mark.parametrize("last", [100 + PROBED, 101 + PROBED, 5000])
    def test_many_born_since(self, host: FakeHost, last: int) -> None:
        """For more than a few numbers /proc is listed."""
        census = host.census()
        host.add(last)
        host.add(102)
        host.count(last)
        census.look()
        assert pids(census) == {100, 102, last}

    def test_numbers_went_round(self, host: FakeHost) -> None:
        """The next ones are small again."""
        host.add(9000)
        host.count(9000)
        census = host.census()
        host.add(9001)
        host.add(301)
        host.count(301)
        census.look()
        assert pids(census) == {100, 301, 9000, 9001}

    def test_number_given_to_another(self, host: FakeHost) -> None:
        """It is another process, which nothing is known of."""
        host.count(150)
        census = host.census()
        before = read(census, 100)
        host.end(100)
        host.add(100, 9, start=200)
        host.count(149)
        census.look()
        (member,) = census.new()
        assert (member.pid, member.start_ns) == (100, 200 * TICK_NS)
        assert member is not before
        assert holding(census, 7) == set()
        census.store(before, census.scan(before))
        assert holding(census, 9) == set()

    def test_all_numbers_went_round(self, host: FakeHost) -> None:
        """The last number may be the same as long ago: then the kernel's count of forks tells."""
        census = host.census()
        host.end(100)
        host.add(100, start=200)
        host.count(100, 1000 + PID_MAX)
        census.look()
        assert census.new()[0].start_ns == 100 * TICK_NS
        host.now_ns += TRUSTED_NS
        census.look()
        assert census.new()[0].start_ns == 200 * TICK_NS

    def test_number_without_a_process_yet(self, host: FakeHost) -> None:
        """A number is given out a little earlier than its process is seen."""
        census = host.census()
        host.count(101)
        census.look()
        host.add(101)
        host.now_ns += MISSING_NS
        census.look()
        assert pids(census) == {100, 101}

    def test_late_one_of_many(self, host: FakeHost) -> None:
        """The same where /proc was listed."""
        census = host.census()
        host.count(5000)
        census.look()
        host.add(5000)
        census.look()
        assert pids(census) == {100, 5000}

    def test_numbers_that_ended_are_given_up(self, host: FakeHost) -> None:
        """After a while, and there are never many of them."""
        census = host.census()
        for last in range(110, 1000, 10):
            host.count(last)
            census.look()
            assert len(census._missing) <= MISSING
        host.now_ns += MISSING_NS + 1
        census.look()
        assert len(census._missing) == 0

    def test_thorough_look(self, host: FakeHost) -> None:
        """What has a number out of order is met, and what has ended is forgotten."""
        census = host.census()
        host.add(20)
        host.end(100)
        census.look()
        assert pids(census) == {100}
        census.look(thoroughly=True)
        assert pids(census) == {20}

    def test_ended_ones_do_not_pile_up(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """A storm of short processes, each seen once."""
        monkeypatch.setattr("pyegress.attribute.census._SPARE", 50)
        census = host.census()
        for pid in range(101, 400):
            host.add(pid, pid)
            host.count(pid)
            census.look()
            read(census, pid)
            host.end(pid)
        assert len(census.members()) < 60
        assert len(census._holders) < 60

    def test_born_at(self, host: FakeHost) -> None:
        """Between two looks, which is sharper than the clock tick."""
        census = host.census()
        host.now_ns += 3
        seen_ns = host.now_ns
        read(census, 100)
        host.now_ns += 4
        host.add(101, start=host.now_ns // TICK_NS)
        host.count(101)
        census.look()
        (member,) = census.new()
        assert (member.born_after_ns, member.born_by_ns) == (seen_ns, host.now_ns)


class TestSockets:
    """What each holds."""

    def test_read(self, host: FakeHost) -> None:
        """Sockets with their descriptors; the rest is left out."""
        (host.root / "100/fd/9").symlink_to("/dev/null")
        (host.root / "100/fd/10").symlink_to("socket:[9]")
        census = host.census()
        member = read(census, 100)
        assert member.sockets == {7: 0, 8: 1, 9: 10}
        assert (holding(census, 7), holding(census, 1)) == ({100}, set())
        assert census.new() == []

    def test_read_again(self, host: FakeHost) -> None:
        """What was closed is held no more; what came later was not inherited."""
        census = host.census()
        host.add(101, 7, start=host.now_ns // TICK_NS)
        host.count(101)
        census.look()
        member = read(census, 101)
        assert member.inherited == {7}
        host.open(101, 9)
        read(census, 101)
        assert (member.inherited, set(member.sockets)) == ({7}, {7, 9})
        (host.root / "101/fd/0").unlink()
        read(census, 101)
        assert (member.inherited, set(member.sockets)) == (set(), {9})
        assert holding(census, 7) == set()

    def test_those_of_before_the_start_inherited_nothing(self, host: FakeHost) -> None:
        """Whoever made what they had was read with it."""
        assert read(host.census(), 100).inherited == set()

    def test_shared(self, host: FakeHost) -> None:
        """By all that hold it."""
        host.add(101, 7)
        census = host.census()
        read(census, 100)
        read(census, 101)
        assert holding(census, 7) == {100, 101}
        host.end(101)
        read(census, 101)
        assert (holding(census, 7), pids(census)) == ({100}, {100})

    def test_older_reading_is_not_taken(self, host: FakeHost) -> None:
        """Two threads read the same process."""
        census = host.census()
        (member,) = census.new()
        older = census.scan(member)
        host.now_ns += 1
        host.open(100, 9)
        census.store(member, census.scan(member))
        census.store(member, older)
        assert holding(census, 9) == {100}

    def test_until(self) -> None:
        """The highest first, and no further than needed: that is no whole reading."""
        with acting() as actor:
            actor.do("some = [socket.socket() for _ in range(9)]")
            inodes = actor.do("[os.fstat(one.fileno()).st_ino for one in some]")
            census = Census()
            census.look()
            (member,) = (one for one in census.new() if one.pid == actor.pid)
            scan = census.scan(member, until=inodes[7])
            assert (set(scan.sockets), scan.is_whole, scan.read) == (set(inodes[7:]), False, 2)
            census.store(member, scan)
            assert member in census.new()

    @pytest.mark.parametrize(("limit", "whole"), [(0, False), (1, False), (2, True), (3, True)])
    def test_limit(self, host: FakeHost, limit: int, whole: bool) -> None:
        """No more descriptors are read."""
        census = host.census()
        scan = census.scan(census.new()[0], limit)
        assert (scan.is_whole, scan.read) == (whole, min(limit, 2))

    def test_note(self, host: FakeHost) -> None:
        """One socket, without reading the others; it was not inherited."""
        census = host.census()
        member = read(census, 100)
        census.note(member, 9, 4)
        census.note(member, 9, 4)
        assert (holding(census, 9), member.sockets[9], member.inherited) == ({100}, 4, set())
        read(census, 100)
        assert holding(census, 9) == set()

    def test_note_of_one_that_was_not_read(self, host: FakeHost) -> None:
        """What it holds it may have inherited."""
        census = host.census()
        (member,) = census.new()
        assert not census.note(member, 9, 4)
        assert holding(census, 9) == set()

    def test_notes_do_not_pile_up(self, host: FakeHost) -> None:
        """A client that connects again and again uses the same descriptor."""
        census = host.census()
        member = read(census, 100)
        assert all(census.note(member, inode, 4) for inode in range(1000, 2000))
        assert (len(member.sockets), holding(census, 1999), holding(census, 1998)) == (3, {100}, set())

    def test_no_descriptor_left(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that can't be read for such a reason has not ended, nor is it without sockets."""
        census = host.census()
        member = read(census, 100)

        def failing(path: str) -> list[str]:
            raise OSError(errno.EMFILE, path)

        with monkeypatch.context() as broken:
            broken.setattr(os, "listdir", failing)
            with pytest.raises(OSError, match="100/fd"):
                census.scan(member)
        assert (pids(census), holding(census, 7)) == ({100}, {100})

    def test_moved_while_it_is_read(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """To a number that was not in the list."""
        census = host.census()
        (member,) = census.new()
        original = os.readlink

        def moving(path: str) -> str:
            if path.endswith("/1") and os.path.lexists(path):
                os.rename(path, f"{host.root}/100/fd/9")  # noqa: PTH104
            return original(path)

        monkeypatch.setattr(os, "readlink", moving)
        scan = census.scan(member)
        assert (scan.sockets, scan.is_whole) == ({7: 0, 8: 9}, True)

    def test_size_of_the_table_before_6_2(self, host: FakeHost) -> None:
        """Where the number of descriptors isn't told."""
        census = host.census()
        status = host.root / "100/status"
        status.write_text(f"{status.read_text()}FDSize:\t{4 * LONGEST}\n")
        assert (census._is_short(100, 0), census._is_short(100, 9)) == (False, True)

    def test_real_process(self) -> None:
        """Our own, with as many descriptors as it says."""
        with acting() as actor:
            actor.do("one = socket.socket()")
            inode = actor.do("os.fstat(one.fileno()).st_ino")
            census = Census()
            census.look()
            member = read(census, actor.pid)
            assert holding(census, inode) == {actor.pid}
            assert is_socket(member.folder, member.sockets[inode], inode)
            assert not is_socket(member.folder, member.sockets[inode], inode + 1)
            assert member.length in (0, len(os.listdir(member.folder)))  # noqa: PTH208

    @needs_root
    def test_main_thread_that_ended(self) -> None:
        """The process goes on without it, and its descriptors are those of the other threads."""
        code = """
import ctypes, os, socket, sys, threading
one = socket.socket()
def stay():
    while os.path.exists(f"/proc/{os.getpid()}/fd/{one.fileno()}"):
        pass
    print(os.fstat(one.fileno()).st_ino, flush=True)
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            inode = int(process.stdout.readline())
            census = Census()
            census.look()
            member = read(census, process.pid)
            assert holding(census, inode) == {process.pid}
            assert is_socket(member.folder, member.sockets[inode], inode)

    @needs_root
    def test_unreadable(self) -> None:
        """Others' processes, for a user without rights: known as such, and never as holders of nothing."""
        with acting("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", cwd="/") as actor:
            found = actor.do(
                f"sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}) or "
                "__import__('pyegress.attribute.census')"
                " and None"
            )
            assert found is None
            actor.do("from pyegress.attribute.census import Census")
            actor.do("census = Census()")
            actor.do("census.look()")
            actor.do("for one in census.new(): census.store(one, census.scan(one))")
            assert actor.do("census.new()") == []
            unreadable = actor.do("[one.pid for one in census.unreadable()]")
            assert os.getpid() in unreadable
            assert actor.pid not in unreadable

    def test_readable_later(self, host: FakeHost) -> None:
        """Its first reading counts, whenever that is: what it has then it may have inherited."""
        census = host.census()
        host.add(101, 7, start=host.now_ns // TICK_NS)
        host.count(101)
        census.look()
        (member,) = (one for one in census.new() if one.pid == 101)
        refused = census.scan(member)
        refused.readable = False
        census.store(member, refused)
        assert (census.unreadable(), holding(census, 7)) == ([member], set())
        read(census, 101)
        assert (census.unreadable(), member.inherited, member.readable) == ([], {7}, True)

    def test_long_list_is_left_alone(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a limited reading only."""
        census = host.census()
        (member,) = census.new()
        monkeypatch.setattr("pyegress.attribute.census.LONGEST", -1)
        assert LONGEST > 1000
        assert census.scan(member, 100).read == 0
        assert census.scan(member).read == 2


def test_member_is_the_process_with_that_start(host: FakeHost) -> None:
    """A number that was used again is not it."""
    census = host.census()
    (member,) = census.new()
    assert census.member(100) is member
    host.end(100)
    assert census.member(100) is None
    host.add(100, start=200)
    assert census.member(100) is None
    assert census.member(5) is None


@pytest.mark.parametrize("groups", [0, 65536])
def test_first_of_a_namespace(host: FakeHost, groups: int) -> None:
    """However many groups it is in."""
    host.add(101)
    status = host.root / "101/status"
    more = " ".join(map(str, range(100000, 100000 + groups)))
    status.write_text(f"Name:\tx\nTgid:\t101\nUid:\t5\t6\t7\t8\nGroups:\t{more}\nNSpid:\t101\t1\n")
    assert {member.pid: member.is_init for member in host.census().members()} == {100: False, 101: True}


def test_numbers_in_use() -> None:
    """The kernel tells which are."""
    with acting() as actor, acting() as other:
        census = Census()
        with ending(actor.do("forked()")) as child:
            assert census._is_used(child)
        actor.do(f"os.waitpid({child}, 0) and None")
        assert not census._is_used(child)
        assert census._is_used(other.pid)


def test_children() -> None:
    """Where the kernel tells them."""
    if not Path("/proc/thread-self/children").exists():
        pytest.skip("CONFIG_PROC_CHILDREN is off")
    with acting() as actor:
        census = Census()
        assert census.children(actor.pid) == []
        with ending(actor.do("forked()")) as child:
            assert census.children(actor.pid) == [child]
        assert census.children(0) is None


def test_forked_child_is_met() -> None:
    """A real one, with what it inherited."""
    with acting() as actor:
        actor.do("one = socket.socket()")
        inode = actor.do("os.fstat(one.fileno()).st_ino")
        census = Census()
        census.look()
        read(census, actor.pid)
        with ending(actor.do("forked()")) as child:
            census.look()
            assert child in {member.pid for member in census.new()}
            member = read(census, child)
            assert member.inherited == set(member.sockets) == {inode}
            assert (member.parent, holding(census, inode)) == (actor.pid, {actor.pid, child})


def test_proc_that_shows_processes_only(tmp_path: Path) -> None:
    """Mounted with subset=pid it does not tell who was born: the message says so."""
    with pytest.raises(UnsupportedError, match="subset=pid"):
        Census(tmp_path)

# SPDX-License-Identifier: MIT
"""Processes are put together from what the kernel told, in whatever order and however often it told it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyegress.attribute.containers import ContainerNames
from pyegress.attribute.processes import ANCESTORS, ProcessTable
from pyegress.attribute.procfs import TICK_NS, Found, Missing, Procfs
from pyegress.record import ATTRIBUTED, DETAILS_LOST, CgroupPath, Details, Identity, Process, Seen

CONTAINER = "3dd988081e7149463c043b5d9c57d7309e079c5e9290f91feba1cc45a04d6a5b"
NO_USER = 4294967294
REASON = "kernel: without arguments or path, "
WAITS = "echo; read line; :"
WAITING_ARGS = b"sh\0-c\0" + WAITS.encode() + b"\0"


def identity(tgid: int, start_ns: int = 100, exec_id: int = 1) -> Identity:
    """Who is meant."""
    return Identity(tgid, start_ns, exec_id)


def seen(who: int | Identity, comm: str = "curl", cgroup_id: int = 0, **changed: Any) -> Seen:
    """What an event says of its process."""
    whole = who if isinstance(who, Identity) else identity(who)
    return Seen(
        **{
            "identity": whole,
            "comm": comm,
            "uid": 0,
            "gid": 0,
            "cgroup_id": cgroup_id,
            "kernel": False,
            **changed,
        }
    )


def details(
    who: int | Seen,
    parent: int | Identity | None = None,
    args: bytes | None = b"curl\0http://a/\0",
    **changed: Any,
) -> Details:
    """What the kernel tells of a program that connects."""
    it = seen(who) if isinstance(who, int) else who
    fields: dict[str, Any] = {
        "seen": it,
        "parent": identity(parent) if isinstance(parent, int) else parent,
        "local_pid": it.identity.tgid,
        "exe": f"/usr/bin/{it.comm}",
        "args": args,
        "args_cut": False,
        "fault": False,
        "arg_start": 0x7000,
        "session_pid": None,
        "session_comm": None,
        "loginuid": None,
        "netns": None,
        "pidns": None,
    }
    return Details(**{**fields, **changed})


def ancestor(who: int | Seen, parent: int | Identity | None = None, **changed: Any) -> Details:
    """What it tells of an ancestor: neither its arguments nor its cgroup."""
    it = seen(who, "bash") if isinstance(who, int) else who
    return details(it._replace(cgroup_id=0), parent, None, **changed)


class StubProcfs(Procfs):
    """A /proc that has one answer, and remembers what it was asked."""

    def __init__(self, answer: Found | Missing = Missing.GONE) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[int, int, int]] = []

    def find(self, pid: int, start_ns: int, arg_start: int) -> Found | Missing:
        """The answer."""
        self.asked.append((pid, start_ns, arg_start))
        return self.answer


class Table:
    """A ProcessTable, and what it said to the kernel and to the user."""

    def __init__(self, root: Path, procfs: Procfs | None = None, **sizes: int) -> None:
        self.forgotten: list[Identity] = []
        self.forgotten_cgroups: list[int] = []
        self.forbidden = 0
        self.procfs = StubProcfs()
        self.table = ProcessTable(
            self.forgotten.append,
            self.forgotten_cgroups.append,
            self.refuse,
            procfs or self.procfs,
            ContainerNames(root),
            **sizes,
        )

    def refuse(self) -> None:
        """/proc would have told more."""
        self.forbidden += 1

    def add(self, *told: Details | CgroupPath) -> None:
        """Take what the kernel told."""
        for one in told:
            self.table.add(one)

    def resolve(self, who: int | Seen) -> Process:
        """The process of an event."""
        return self.table.resolve(seen(who) if isinstance(who, int) else who)

    def lineage(self, who: int | Seen) -> list[int | None]:
        """Numbers of the ancestors, nearest first."""
        found = []
        process = self.resolve(who).parent
        while process:
            found.append(process.pid)
            process = process.parent
        return found


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """An empty one, on a host without containers."""
    return Table(tmp_path)


@contextmanager
def running(*command: str) -> Iterator[Details]:
    """What the kernel would tell of a running shell whose arguments it couldn't read."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b") ")[2].split()
        who = Identity(process.pid, int(fields[19]) * TICK_NS + 1, 7)
        # Where the kernel can't read the arguments, the path has been read already.
        exe = os.path.realpath(f"/proc/{process.pid}/exe")
        yield details(seen(who, "sh"), None, None, exe=exe, fault=True, arg_start=int(fields[45]))
        process.communicate()


def test_everything_that_the_kernel_told(table: Table) -> None:
    """Each field of a process, with nothing of /proc."""
    it = Seen(Identity(9, 111, 3), "curl", NO_USER, 7, 0, False)
    told = details(
        it,
        session_pid=5,
        session_comm="sshd",
        loginuid=1000,
        netns=4026531840,
        pidns=4026531836,
        args=b"curl\0-o\0a b\0",
    )
    table.add(told)
    assert table.resolve(it) == Process(
        pid=9,
        start_ns=111,
        comm="curl",
        name="curl",
        exe="/usr/bin/curl",
        cmdline="curl -o a b",
        cmdline_cut=False,
        script=None,
        uid=NO_USER,
        gid=7,
        user=str(NO_USER),
        loginuid=1000,
        session_pid=5,
        session_name="sshd",
        cgroup_id=None,
        cgroup=None,
        netns=4026531840,
        pidns=4026531836,
        kernel=False,
        attribution="kernel",
        parent=None,
    )
    assert table.procfs.asked == []
    assert table.table.has_gaps is False


def test_what_changes_is_the_events(table: Table) -> None:
    """Name, user and cgroup are those of the event, not of the time when details were told."""
    table.add(details(9), CgroupPath(31, "/a"), CgroupPath(32, "/b"))
    process = table.resolve(seen(9, "renamed", 32, uid=NO_USER, gid=8))
    assert (process.comm, process.name, process.uid, process.user) == (
        "renamed",
        "renamed",
        NO_USER,
        str(NO_USER),
    )
    assert (process.gid, process.cgroup_id, process.cgroup) == (8, 32, "/b")
    assert process.cmdline == "curl http://a/"


def test_script_and_full_name(table: Table) -> None:
    """They are told by the arguments."""
    it = seen(9, "averyverylongna")
    table.add(details(it, args=b"/bin/sh\0-e\0/opt/averyverylongname.sh\0x\0", exe="/usr/bin/dash"))
    process = table.resolve(it)
    assert (process.name, process.script) == ("averyverylongname.sh", "/opt/averyverylongname.sh")


@pytest.mark.parametrize(
    ("args", "cmdline"),
    [
        (b"a\0b\0", "a b"),
        (b"a\0\0b\0", "a  b"),
        (b"a b\0c", "a b c"),
        (b"\xff\xfe\0\n\x1b[31m\0", "\udcff\udcfe \n\x1b[31m"),
        (b"a\0\0\0", "a"),
        (b"\xc3", "\udcc3"),
        (b"\0", None),
        (b"", None),
    ],
)
def test_command_line(table: Table, args: bytes, cmdline: str | None) -> None:
    """Arguments are joined by spaces; bytes that are no text survive, and none are no gap."""
    table.add(details(9, args=args))
    process = table.resolve(9)
    assert (process.cmdline, process.attribution) == (cmdline, "kernel")


@pytest.mark.parametrize("cut", [False, True])
def test_cut_command_line(table: Table, cut: bool) -> None:
    """It is said that there was more, and that is no gap."""
    table.add(details(9, args_cut=cut))
    process = table.resolve(9)
    assert (process.cmdline_cut, process.attribution) == (cut, "kernel")
    assert table.table.has_gaps is False


def test_kernel_thread(table: Table) -> None:
    """It has no program, which is nothing that /proc could tell."""
    it = seen(9, "kworker/u8:0", kernel=True)
    table.add(details(it, args=None, exe=None, arg_start=0))
    process = table.resolve(it)
    assert (process.name, process.kernel, process.attribution) == ("kworker", True, "kernel")
    assert (process.exe, process.cmdline) == (None, None)
    assert table.procfs.asked == []
    assert table.table.has_gaps is False


class TestLostDetails:
    """The ring buffer was full when they would have come."""

    def test_what_the_event_says_is_kept(self, table: Table) -> None:
        """Nothing is made up, and nothing is read of a process that may have ended."""
        it = seen(9, uid=NO_USER)
        assert table.resolve(it) == Process(
            pid=9,
            start_ns=100,
            comm="curl",
            name="curl",
            uid=NO_USER,
            gid=0,
            user=str(NO_USER),
            attribution=DETAILS_LOST,
        )
        assert DETAILS_LOST not in ATTRIBUTED
        assert table.table.has_gaps is True
        assert table.procfs.asked == []

    def test_they_may_come_later(self, table: Table) -> None:
        """Then the process is whole."""
        table.resolve(9)
        table.add(details(9))
        assert table.resolve(9).attribution == "kernel"

    def test_cgroup_that_is_known(self, table: Table) -> None:
        """Its path came with another process."""
        table.add(CgroupPath(31, "/system.slice/cron.service"))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.unit, process.attribution) == ("cron.service", DETAILS_LOST)

    @pytest.mark.parametrize(
        "other",
        [identity(9, exec_id=2), identity(9, start_ns=101), identity(10)],
        ids=["exec", "reused", "other"],
    )
    def test_another_programs_details_are_not_taken(self, table: Table, other: Identity) -> None:
        """The same number with another start is another process, with another exec_id another program."""
        table.add(details(seen(other)))
        process = table.resolve(9)
        assert (process.cmdline, process.exe, process.attribution) == (None, None, DETAILS_LOST)


@pytest.mark.parametrize(
    "second", [identity(9, exec_id=2), identity(9, start_ns=101)], ids=["exec", "reused"]
)
def test_programs_with_one_number_are_apart(table: Table, second: Identity) -> None:
    """Records of both may be read after the second began."""
    table.add(details(9, args=b"first\0"), details(seen(second, "wget"), args=b"second\0"))
    assert table.resolve(9).cmdline == "first"
    process = table.resolve(seen(second, "wget"))
    assert (process.cmdline, process.exe, process.start_ns) == ("second", "/usr/bin/wget", second.start_ns)


class TestPidNamespace:
    """Numbers are those of the reader's namespace where it has them."""

    def test_local_number(self, table: Table) -> None:
        """The reader's own number, for the parent too."""
        table.add(ancestor(8, local_pid=1), details(9, 8, local_pid=2))
        process = table.resolve(9)
        assert process.parent
        assert (process.pid, process.parent.pid) == (2, 1)

    def test_process_outside(self, table: Table) -> None:
        """The host's number, with which /proc here may have another process: it isn't looked at."""
        table.add(details(9, local_pid=None, fault=True, args=None))
        process = table.resolve(9)
        assert (process.pid, process.attribution) == (9, REASON + Missing.GONE.value)
        assert table.procfs.asked == []

    def test_proc_is_asked_by_the_local_number(self, table: Table) -> None:
        """The only one that it knows."""
        table.add(details(9, local_pid=2, fault=True, args=None))
        table.resolve(9)
        assert table.procfs.asked == [(2, 100, 0x7000)]


@pytest.mark.parametrize("comm", ["bash", None])
def test_session(table: Table, comm: str | None) -> None:
    """The leader's number stays when it has gone, its name does not."""
    table.add(details(9, session_pid=4, session_comm=comm))
    process = table.resolve(9)
    assert (process.session_pid, process.session_name) == (4, comm)


class TestParents:
    """The chain of programs that started this one."""

    def test_chain(self, table: Table) -> None:
        """Each is what was told of it, nearest first."""
        table.add(
            ancestor(seen(7, "sshd", uid=NO_USER)),
            ancestor(8, 7, session_pid=8, session_comm="bash", loginuid=5),
            details(9, 8),
        )
        process = table.resolve(9)
        grandparent = Process(
            pid=7,
            start_ns=100,
            comm="sshd",
            name="sshd",
            exe="/usr/bin/sshd",
            uid=NO_USER,
            gid=0,
            user=str(NO_USER),
        )
        assert process.parent == Process(
            pid=8,
            start_ns=100,
            comm="bash",
            name="bash",
            exe="/usr/bin/bash",
            uid=0,
            gid=0,
            user="root",
            loginuid=5,
            session_pid=8,
            session_name="bash",
            parent=grandparent,
        )
        assert process.attribution == "kernel"
        assert table.table.has_gaps is False

    def test_at_most_8(self, table: Table) -> None:
        """More are not told, and would not be shown."""
        table.add(ancestor(1), *(ancestor(pid, pid - 1) for pid in range(2, 20)), details(20, 19))
        assert ANCESTORS == 8
        assert table.lineage(20) == [19, 18, 17, 16, 15, 14, 13, 12]
        assert table.lineage(12) == [11, 10, 9, 8, 7, 6, 5, 4]
        assert table.lineage(3) == [2, 1]

    def test_siblings_share_their_parents(self, table: Table) -> None:
        """One object for each, so that a busy shell's children cost no more than themselves."""
        table.add(ancestor(7), ancestor(8, 7), details(9, 8), details(10, 8))
        first, second = table.resolve(9), table.resolve(10)
        assert first is not second
        assert first.parent is second.parent is table.resolve(9).parent is not None

    def test_cousins_share_what_is_above_both(self, table: Table) -> None:
        """The same level of the same ancestor."""
        table.add(ancestor(6), ancestor(7, 6), ancestor(8, 6), details(9, 7), details(10, 8))
        one, two = table.resolve(9).parent, table.resolve(10).parent
        assert one and two
        assert one is not two
        assert one.parent is two.parent is not None

    def test_parent_of_which_nothing_was_told(self, table: Table) -> None:
        """Its details were lost, so its own parents are unknown too."""
        table.add(ancestor(7), details(9, 8))
        assert table.resolve(9).parent is None

    def test_parent_after_an_exec_is_another_program(self, table: Table) -> None:
        """The one that was told of is not the one that is the parent now."""
        table.add(ancestor(8), details(9, identity(8, exec_id=2)))
        assert table.resolve(9).parent is None

    def test_parent_that_connects_itself(self, table: Table) -> None:
        """Its arguments are told then, and its other children's parent has them from there on."""
        table.add(ancestor(8), details(9, 8))
        before = table.resolve(9).parent
        it = seen(8, "bash", 31)
        table.add(details(it, args=b"bash\0x.sh\0"), CgroupPath(31, "/a"))
        after = table.resolve(9).parent
        assert before and after
        assert (before.cmdline, before.cgroup) == (None, None)
        assert (after.cmdline, after.script, after.cgroup) == ("bash x.sh", "x.sh", "/a")
        assert table.resolve(it).cmdline == "bash x.sh"

    def test_told_again_as_an_ancestor(self, table: Table) -> None:
        """It is renamed meanwhile: the new name counts, and arguments and cgroup of before are kept."""
        it = seen(8, "bash", 31)
        table.add(details(it, args=b"bash\0x.sh\0", args_cut=True), CgroupPath(31, "/a"))
        table.add(ancestor(seen(8, "renamed", uid=NO_USER), exe="/usr/bin/bash"), details(9, 8))
        parent = table.resolve(9).parent
        assert parent
        assert (parent.comm, parent.uid, parent.cgroup) == ("renamed", NO_USER, "/a")
        assert (parent.cmdline, parent.cmdline_cut, parent.script) == ("bash x.sh", True, "x.sh")
        assert table.resolve(it).cmdline == "bash x.sh"
        assert table.procfs.asked == []

    def test_told_again_with_a_fault(self, table: Table) -> None:
        """An ancestor's record has less room for its path: what is known of the program stays known."""
        table.add(details(8, args=b"bash\0x.sh\0", exe="/usr/bin/bash"))
        table.add(ancestor(seen(8, "renamed"), exe=None, fault=True), details(9, 8))
        parent = table.resolve(9).parent
        assert parent
        assert (parent.comm, parent.cmdline, parent.exe) == ("renamed", "bash x.sh", "/usr/bin/bash")

    def test_told_again_without_its_path(self, table: Table) -> None:
        """A path too long for both records is still to be looked for, and still a gap."""
        table.add(details(8, exe=None, fault=True), ancestor(8, exe=None, fault=True))
        assert table.resolve(8).attribution == REASON + Missing.GONE.value
        table.procfs.answer = Found("/a/long/one", b"curl\0http://a/\0", False)
        assert table.resolve(8).exe == "/a/long/one"

    @pytest.mark.parametrize(
        "before", [ancestor(8), details(seen(8, cgroup_id=32))], ids=["ancestor", "moved"]
    )
    def test_told_whole_with_a_fault(self, table: Table, before: Details) -> None:
        """It connects itself, and its arguments were not in memory: its cgroup was told, and counts."""
        table.add(CgroupPath(31, "/a"), CgroupPath(32, "/b"), before)
        table.add(details(seen(8, cgroup_id=31), args=None, fault=True), details(9, 8))
        assert table.resolve(seen(8, cgroup_id=31)).cgroup == "/a"
        parent = table.resolve(9).parent
        assert parent
        assert (parent.cgroup_id, parent.cgroup) == (31, "/a")

    def test_grandparent_that_connects_itself(self, table: Table) -> None:
        """What was put together before doesn't keep it as it was."""
        table.add(ancestor(7), ancestor(8, 7), details(9, 8))
        assert table.resolve(9).parent
        table.add(details(seen(7, "bash"), args=b"bash\0x.sh\0"))
        parent = table.resolve(9).parent
        assert parent and parent.parent
        assert parent.parent.cmdline == "bash x.sh"

    def test_ancestor_that_comes_late(self, table: Table) -> None:
        """Its details were lost at first: who was shown without it has it from then on."""
        table.add(ancestor(8, 7), details(9, 8))
        assert table.lineage(9) == [8]
        table.add(ancestor(7))
        assert table.lineage(9) == [8, 7]

    def test_kernel_thread(self, table: Table) -> None:
        """kthreadd has no arguments either: /proc isn't asked for them."""
        table.add(ancestor(seen(2, "kthreadd", kernel=True), exe=None), details(9, 2))
        parent = table.resolve(9).parent
        assert parent
        assert (parent.name, parent.kernel, parent.attribution) == ("kthreadd", True, "kernel")
        assert table.procfs.asked == []

    def test_exec_keeps_nothing_of_the_program_before(self, table: Table) -> None:
        """The same process as an ancestor, running another program now."""
        table.add(details(8, args=b"first\0"), ancestor(seen(identity(8, exec_id=2), "bash")))
        table.add(details(9, identity(8, exec_id=2)))
        parent = table.resolve(9).parent
        assert parent
        assert (parent.exe, parent.cmdline) == ("/usr/bin/bash", None)

    @pytest.mark.parametrize("ring", [1, 2, 3, 8, 9])
    def test_ring(self, table: Table, ring: int) -> None:
        """Records that name each other as parents come to an end."""
        for pid in range(1, ring + 1):
            table.add(details(pid, pid % ring + 1))
        for pid in range(1, ring + 1):
            assert table.lineage(pid) == [(pid + step) % ring + 1 for step in range(ANCESTORS)]

    def test_process_as_its_own_parent(self, table: Table) -> None:
        """The shortest ring, without an event's program in it."""
        table.add(ancestor(8, 8), details(9, 8))
        assert table.lineage(9) == [8] * ANCESTORS

    def test_arguments_from_proc(self, tmp_path: Path) -> None:
        """An ancestor's are read there; that it is not there is no gap of the process that connected."""
        with running("sh", "-c", WAITS) as told:
            table = Table(tmp_path, Procfs())
            table.add(told._replace(fault=False), details(9, told.seen.identity))
            process = table.resolve(9)
        assert process.parent
        assert (process.parent.cmdline, process.parent.attribution) == (f"sh -c {WAITS}", "proc")
        assert process.attribution == "kernel"
        gone = Table(tmp_path, Procfs())
        gone.add(told._replace(fault=False), details(9, told.seen.identity))
        process = gone.resolve(9)
        assert process.parent
        assert (process.parent.cmdline, process.parent.exe) == (None, told.exe)
        assert (process.attribution, process.parent.attribution) == ("kernel", "kernel")
        assert gone.table.has_gaps is False

    def test_proc_is_asked_once(self, table: Table) -> None:
        """A shell that starts thousands of programs is looked at for the first of them."""
        table.add(ancestor(8), *(details(pid, 8) for pid in range(9, 20)))
        for pid in range(9, 20):
            table.resolve(pid)
        assert table.procfs.asked == [(8, 100, 0x7000)]

    def test_forbidden(self, table: Table) -> None:
        """The user is told that there is more to know, and it is no gap."""
        table.procfs.answer = Missing.FORBIDDEN
        table.add(ancestor(8), details(9, 8))
        assert table.resolve(9).attribution == "kernel"
        assert (table.forbidden, table.table.has_gaps) == (1, False)


class TestProc:
    """What the kernel could not read is read in /proc, where it is the same program."""

    def test_arguments_that_were_not_in_memory(self, tmp_path: Path) -> None:
        """The process is whole, and it is said where a part of it comes from."""
        with running("sh", "-c", WAITS) as told:
            table = Table(tmp_path, Procfs())
            table.add(told)
            process = table.resolve(told.seen)
        assert (process.cmdline, process.exe, process.attribution) == (f"sh -c {WAITS}", told.exe, "proc")
        assert process.attribution in ATTRIBUTED
        assert table.table.has_gaps is False

    def test_path_that_was_too_long(self, tmp_path: Path) -> None:
        """The arguments are there, the path is not."""
        with running("sh", "-c", WAITS) as told:
            table = Table(tmp_path, Procfs())
            table.add(told._replace(exe=None, args=WAITING_ARGS))
            process = table.resolve(told.seen)
        assert (process.cmdline, process.exe, process.attribution) == (f"sh -c {WAITS}", told.exe, "proc")

    def test_path_of_the_kernel_is_preferred(self, table: Table) -> None:
        """It was taken at the connection."""
        table.procfs.answer = Found("/of/proc", b"a\0b\0", True)
        table.add(details(9, args=None, fault=True))
        process = table.resolve(9)
        assert (process.exe, process.cmdline, process.cmdline_cut) == ("/usr/bin/curl", "a b", True)

    @pytest.mark.parametrize("change", ["gone", "exec", "reused"])
    def test_real_program_that_is_not_there(self, change: str, tmp_path: Path) -> None:
        """One that has ended, runs another program, or whose number another one has: the reason is told."""
        missing = Missing.CHANGED if change == "exec" else Missing.GONE
        table = Table(tmp_path, Procfs())
        with running("sh", "-c", WAITS) as told:
            whole = told
            if change == "exec":
                told = told._replace(arg_start=told.arg_start + 64)
            elif change == "reused":
                who = told.seen.identity
                older = who._replace(start_ns=who.start_ns - TICK_NS)
                told = told._replace(seen=told.seen._replace(identity=older))
            if change != "gone":
                table.add(told)
                process = table.resolve(told.seen)
        if change == "gone":
            table.add(told)
            process = table.resolve(told.seen)
        assert (process.cmdline, process.exe) == (None, whole.exe)
        assert process.attribution == REASON + missing.value
        assert process.attribution not in ATTRIBUTED
        assert table.table.has_gaps is True
        assert table.forbidden == 0

    @pytest.mark.parametrize("missing", Missing)
    def test_reason(self, table: Table, missing: Missing) -> None:
        """What the kernel knew is kept, and what is missing is said."""
        table.procfs.answer = missing
        table.add(details(9, exe=None, fault=True))
        process = table.resolve(9)
        assert (process.cmdline, process.exe) == ("curl http://a/", None)
        assert process.attribution == REASON + missing.value
        assert table.table.has_gaps is True
        assert table.forbidden == (missing is Missing.FORBIDDEN)

    def test_program_without_an_address(self, table: Table) -> None:
        """Without the one thing that tells two programs apart /proc is not asked."""
        table.add(details(9, args=None, fault=True, arg_start=0))
        assert table.resolve(9).attribution == REASON + Missing.GONE.value
        assert table.procfs.asked == []

    def test_start_in_nanoseconds_and_address_are_asked_for(self, table: Table) -> None:
        """Those of the kernel, of the program that is meant."""
        it = seen(identity(9, 123_456_789, 4))
        table.add(details(it, args=None, fault=True, arg_start=0x7FFF_1234))
        table.resolve(it)
        assert table.procfs.asked == [(9, 123_456_789, 0x7FFF_1234)]


class TestCgroups:
    """The path of a cgroup comes once for all that are in it."""

    def test_unit(self, table: Table) -> None:
        """What the path tells of systemd."""
        table.add(details(9), CgroupPath(31, "/user.slice/user-1000.slice/session-3.scope"))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.cgroup_id, process.cgroup) == (31, "/user.slice/user-1000.slice/session-3.scope")
        assert (process.unit, process.slice, process.login_session) == (
            "session-3.scope",
            "user-1000.slice",
            "3",
        )
        assert (process.container, process.container_engine, process.container_name) == (None, None, None)

    def test_unit_of_a_user(self, table: Table) -> None:
        """Both the system's and the user's own."""
        path = "/user.slice/user-1000.slice/user@1000.service/app.slice/mail.service"
        table.add(details(9), CgroupPath(31, path))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.unit, process.user_unit) == ("user@1000.service", "mail.service")

    def test_container(self, table: Table, tmp_path: Path) -> None:
        """Its name is in its engine's files."""
        folder = tmp_path / "var/lib/docker/containers" / CONTAINER
        folder.mkdir(parents=True)
        (folder / "config.v2.json").write_text('{"Name": "/web"}')
        table.add(details(9), CgroupPath(31, f"/system.slice/docker-{CONTAINER}.scope"))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.container, process.container_engine) == (CONTAINER, "docker")
        assert process.container_name == "web"

    def test_pod(self, table: Table) -> None:
        """Its uid as Kubernetes writes it."""
        uid = "2c48913c-b29f-11e7-9350-020968147796"
        inner = f"kubepods-pod{uid.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope"
        table.add(details(9), CgroupPath(31, f"/kubepods.slice/{inner}"))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.pod, process.container, process.container_engine) == (uid, CONTAINER, "containerd")

    def test_root(self, table: Table) -> None:
        """It is a cgroup too, and no unit."""
        table.add(details(9), CgroupPath(1, "/"))
        process = table.resolve(seen(9, cgroup_id=1))
        assert (process.cgroup_id, process.cgroup, process.unit) == (1, "/", None)

    def test_of_which_nothing_was_told(self, table: Table) -> None:
        """A number without a path."""
        table.add(details(9), CgroupPath(31, "/a"))
        process = table.resolve(seen(9, cgroup_id=(1 << 63) | 31))
        assert (process.cgroup_id, process.cgroup) == ((1 << 63) | 31, None)

    def test_told_again(self, table: Table) -> None:
        """The newer path counts: a cgroup of v1 can be renamed."""
        table.add(details(9), CgroupPath(31, "/a"), CgroupPath(31, "/b"))
        assert table.resolve(seen(9, cgroup_id=31)).cgroup == "/b"
        assert table.forgotten_cgroups == []

    def test_any_process_of_one(self, table: Table) -> None:
        """What is asked for before there is a process."""
        process = table.table.of_cgroup("/system.slice/cron.service")
        assert (process.cgroup, process.unit, process.slice) == (
            "/system.slice/cron.service",
            "cron.service",
            "system.slice",
        )

    def test_hostile_path(self, table: Table) -> None:
        """Whoever makes a cgroup names it."""
        path = "/user.slice/\udcff\n\x1b[31m/" + "x" * 4000
        table.add(details(9), CgroupPath(31, path))
        process = table.resolve(seen(9, cgroup_id=31))
        assert (process.cgroup, process.unit, process.container) == (path, None, None)


class TestEviction:
    """What is forgotten here is forgotten in the kernel, so that it is told again."""

    def test_oldest_program(self, tmp_path: Path) -> None:
        """In the order in which they were told."""
        table = Table(tmp_path, programs=3)
        table.add(*(details(pid) for pid in range(1, 6)))
        assert table.forgotten == [identity(1), identity(2)]
        attributions = [table.resolve(pid).attribution for pid in range(1, 6)]
        assert attributions == [DETAILS_LOST, DETAILS_LOST, "kernel", "kernel", "kernel"]
        table.add(details(1))
        assert table.resolve(1).attribution == "kernel"
        assert table.forgotten == [identity(1), identity(2), identity(3)]

    def test_program_told_again_is_the_newest(self, tmp_path: Path) -> None:
        """It takes no other's place."""
        table = Table(tmp_path, programs=3)
        table.add(details(1), details(2), details(3), details(1), details(2))
        assert table.forgotten == []
        table.add(details(4))
        assert table.forgotten == [identity(3)]

    def test_programs_of_one_process_are_forgotten_each(self, tmp_path: Path) -> None:
        """By the whole identity, as the kernel knows them."""
        table = Table(tmp_path, programs=1)
        table.add(
            details(seen(identity(9, 5, 1))),
            details(seen(identity(9, 5, 2))),
            details(seen(identity(9, 6, 2))),
        )
        assert table.forgotten == [identity(9, 5, 1), identity(9, 5, 2)]

    def test_oldest_cgroup(self, tmp_path: Path) -> None:
        """The same of paths, and of nothing else."""
        table = Table(tmp_path, cgroups=2)
        table.add(details(9), *(CgroupPath(number, f"/{number}") for number in (1, 2, 3)))
        assert (table.forgotten_cgroups, table.forgotten) == ([1], [])
        paths = [table.resolve(seen(9, cgroup_id=number)).cgroup for number in (1, 2, 3)]
        assert paths == [None, "/2", "/3"]

    def test_forgotten_path_is_told_again(self, tmp_path: Path) -> None:
        """The kernel tells a path only with a program that it thinks unknown, so those in it are forgotten too."""
        table = Table(tmp_path, cgroups=2)
        told = (CgroupPath(1, "/1"), details(seen(9, cgroup_id=1)))
        table.add(*told, CgroupPath(2, "/2"), CgroupPath(3, "/3"))
        if identity(9) in table.forgotten:
            table.add(*told)
        assert table.resolve(seen(9, cgroup_id=1)).cgroup == "/1"

    def test_everything_is_bounded(self, tmp_path: Path) -> None:
        """A storm of short programs, each the parent of the next, leaves no more than was asked for."""
        table = Table(tmp_path, programs=16, cgroups=4)
        for pid in range(1, 500):
            table.add(details(pid, pid - 1), CgroupPath(pid, f"/{pid}"))
            table.resolve(pid)
        inner = table.table
        assert len(inner._programs) == 16
        assert len(inner._cgroups) == 4
        assert set(inner._ancestors) <= set(inner._programs)
        assert len(table.forgotten) == 499 - 16
        assert len(table.forgotten_cgroups) == 499 - 4

    def test_parents_that_are_never_told_are_bounded(self, tmp_path: Path) -> None:
        """What isn't known of many takes no more room than what is."""
        table = Table(tmp_path, programs=16)
        for pid in range(1, 500):
            table.add(details(pid, 1000 + pid))
            table.resolve(pid)
        kept = [value for value in vars(table.table).values() if isinstance(value, dict | set | list)]
        assert max(map(len, kept)) <= 16

    def test_living_ancestors_outlast_their_children(self, tmp_path: Path) -> None:
        """They were told once, before programs of which there are many times more than room."""
        table = Table(tmp_path, programs=8)
        table.add(ancestor(1), ancestor(2, 1), ancestor(3, 2))
        for pid in range(10, 100):
            table.add(details(pid, 3))
            assert table.lineage(pid) == [3, 2, 1]
        assert table.forgotten == [identity(pid) for pid in range(10, 95)]

    def test_ancestors_above_the_eighth(self, tmp_path: Path) -> None:
        """They are within reach of one of the 8, whose children's ancestors the kernel doesn't tell again."""
        table = Table(tmp_path, programs=16)
        table.add(ancestor(1), *(ancestor(pid, pid - 1) for pid in range(2, 11)))
        table.add(*(details(pid, 10) for pid in range(100, 140)))
        table.add(details(200, 5))
        assert identity(5) not in table.forgotten
        assert table.lineage(200) == [5, 4, 3, 2, 1]

    def test_ancestors_are_newer_than_their_descendants(self, tmp_path: Path) -> None:
        """The kernel tells of ancestors up to the first that it knows: those above it must be known here."""
        table = Table(tmp_path, programs=4)
        table.add(ancestor(1), ancestor(2, 1), details(3, 2), details(4, 2))
        table.add(details(5, 2))
        assert table.forgotten == [identity(3)]
        assert table.lineage(5) == [2, 1]

    def test_parent_is_not_dropped_for_its_child(self, tmp_path: Path) -> None:
        """The oldest of all may be the parent of the newest."""
        table = Table(tmp_path, programs=3)
        table.add(ancestor(1), details(2), details(3))
        table.add(details(4, 1))
        assert table.forgotten == [identity(2)]
        assert table.lineage(4) == [1]

    @pytest.mark.parametrize("seed", range(5))
    def test_lineage_is_whole_whatever_was_forgotten(self, seed: int, tmp_path: Path) -> None:
        """With a kernel that tells only what it thinks unknown, as details.bpf.h does, of processes 8 deep."""
        chance = random.Random(seed)
        lines: dict[int, list[int]] = {1: []}
        known: set[int] = set()
        table = Table(tmp_path, programs=32)
        for pid in range(2, 2000):
            # Mostly the same few start something, now and then one from long ago.
            parent = chance.choice([1, pid - 1, chance.randrange(1, pid), max(1, (pid - 1) // 100 * 100)])
            if len(lines[parent]) == ANCESTORS:
                parent = 1
            lines[pid] = [parent, *lines[parent]]
            caller = chance.choice([pid, chance.randrange(1, pid + 1)])
            if caller not in known:
                unknown = []
                for above in lines[caller]:
                    if above in known:
                        break
                    unknown.append(above)
                for above in reversed(unknown):
                    table.add(ancestor(above, next(iter(lines[above]), None)))
                table.add(details(caller, next(iter(lines[caller]), None)))
                known |= {*unknown, caller}
                known -= {who.tgid for who in table.forgotten}
                table.forgotten.clear()
            assert table.lineage(caller) == lines[caller]

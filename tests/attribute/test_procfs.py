# SPDX-License-Identifier: MIT
"""Attribution by /proc: only of the process that the kernel named, and what is missing is counted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyegress.attribute import procfs
from pyegress.attribute.procfs import CMDLINE_BYTES, TICK_NS, ProcfsResolver, full_name, user_name
from pyegress.losses import Losses
from pyegress.record import Process, Seen

GONE = ("unattributed", "without details: processes gone or changed before /proc was read")
CUT = "averyverylongna"


def seen(pid: int, start_ticks: int, comm: str, **changed: Any) -> Seen:
    """What the kernel saw of a process without a parent, somewhere inside a clock tick."""
    fields: dict[str, Any] = {
        "pid": pid,
        "start_ns": start_ticks * TICK_NS + TICK_NS - 1,
        "exec_id": 1,
        "comm": comm,
        "uid": 0,
        "gid": 0,
        "cgroup_id": 5,
        "kernel": False,
        "parent_pid": 0,
        "parent_start_ns": 0,
        "parent_comm": "",
    }
    return Seen(**{**fields, **changed})


def start_ticks(pid: int) -> int:
    """Start time of a running process."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[19])


def comm_of(pid: int) -> str:
    """The kernel's name of a running process."""
    return Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")


class FakeProc:
    """A /proc of made-up processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.losses = Losses()
        self.resolver = ProcfsResolver(self.losses, root=root)

    def add(
        self,
        pid: int,
        start: int,
        comm: bytes = b"curl",
        parent: int = 0,
        cmdline: bytes = b"curl\0http://a/\0",
        exe: bytes | None = b"/usr/bin/curl",
        uid: int = 0,
        flags: int = 0,
    ) -> None:
        """Let a process run, in place of one with the same number."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        zeros = b" 0 0 0 0 %d" % flags + b" 0" * 12
        (folder / "stat").write_bytes(b"%d (%s) S %d%s %d 0 0\n" % (pid, comm, parent, zeros, start))
        (folder / "cmdline").write_bytes(cmdline)
        (folder / "status").write_bytes(b"Name:\t%s\nUid:\t%d\t1\t1\t1\n" % (comm, uid))
        (folder / "exe").unlink(missing_ok=True)
        if exe is not None:
            (folder / "exe").symlink_to(os.fsdecode(exe))

    def resolve(self, asked: Seen) -> Process:
        """What is made of a process."""
        return self.resolver.resolve(asked)


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    """An empty /proc."""
    return FakeProc(tmp_path)


@contextmanager
def running(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has said a line, and its line; its standard input is open until the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()
        process.communicate()


@pytest.mark.parametrize(
    ("comm", "cmdline", "exe", "name"),
    [
        ("curl", "curl http://a/", "/usr/bin/curl", "curl"),
        ("curl", None, None, "curl"),
        ("curl", "wget", "/usr/bin/curl-8", "curl"),
        ("", None, None, ""),
        (CUT, f"{CUT}me", f"/opt/{CUT}me", f"{CUT}me"),
        (CUT, None, f"/opt/{CUT}me", f"{CUT}me"),
        (CUT, f"/usr/bin/python3 /opt/{CUT}me.py -v", "/usr/bin/python3.11", f"{CUT}me.py"),
        (CUT, f"/opt/{CUT}me", "/usr/bin/python3.11", f"{CUT}me"),
        (CUT, f"python3 -v /opt/{CUT}me", "/usr/bin/python3.11", CUT),
        (CUT, f"other {CUT}", "/usr/bin/other", CUT),
        (CUT, "other", "/usr/bin/other", CUT),
        (CUT, None, None, CUT),
        ("caf\u00e9-name-cuts", "x", "/opt/caf\u00e9-name-cuts-so", "caf\u00e9-name-cuts-so"),
        ("12345678901234\udcc3", "x", "/opt/12345678901234\u00e9", "12345678901234\u00e9"),
        ("12345678901234", "x", "/opt/12345678901234more", "12345678901234"),
    ],
)
def test_full_name(comm: str, cmdline: str | None, exe: str | None, name: str) -> None:
    """A name that fills the kernel's 15 bytes is completed by the program or one of its first two arguments."""
    assert full_name(comm, cmdline, exe, False) == name


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        ("kworker/3:1", "kworker"),
        ("kworker/u8:0", "kworker"),
        ("kworker/u16:3-ev", "kworker"),
        ("migration/0", "migration"),
        ("kthreadd", "kthreadd"),
        ("123456789012345", "123456789012345"),
    ],
)
def test_kernel_thread_name(comm: str, name: str) -> None:
    """Kernel threads that do the same work have the same name."""
    assert full_name(comm, None, None, True) == name


def test_kernel_thread(fake: FakeProc) -> None:
    """/proc adds the work queue to a worker's name; it has no program, and that is no loss."""
    fake.add(9, 100, b"kworker/u8:0-events_unbound", cmdline=b"", exe=None, flags=0x00208040)
    process = fake.resolve(seen(9, 100, "kworker/u8:0", kernel=True))
    assert (process.name, process.kernel, process.cmdline, process.exe) == ("kworker", True, None, None)
    assert fake.losses.snapshot() == {}


def test_everything_that_proc_knows(fake: FakeProc) -> None:
    """The kernel's facts and those of /proc are in one Process."""
    fake.add(9, 100)
    asked = seen(9, 100, "curl", uid=4294967294, gid=7)
    assert fake.resolve(asked) == Process(
        pid=9,
        start_ns=asked.start_ns,
        comm="curl",
        name="curl",
        exe="/usr/bin/curl",
        cmdline="curl http://a/",
        uid=4294967294,
        gid=7,
        user="4294967294",
        cgroup_id=5,
    )
    assert fake.losses.snapshot() == {}


@pytest.mark.parametrize(
    ("start", "comm"),
    [(101, "curl"), (99, "curl"), (100, "bash"), (100, "")],
    ids=["number used again", "older process", "another program", "no name"],
)
def test_nothing_is_taken_from_another_process(fake: FakeProc, start: int, comm: str) -> None:
    """A process that is not the one, or not that program any more, gives nothing, and that is counted."""
    fake.add(9, start, comm.encode())
    process = fake.resolve(seen(9, 100, "curl"))
    assert (process.name, process.cmdline, process.exe) == ("curl", None, None)
    assert (process.uid, process.cgroup_id) == (0, 5)
    assert fake.losses.snapshot() == {GONE: 1}


def test_first_nanosecond_of_a_tick(fake: FakeProc) -> None:
    """/proc tells the tick in which a process started; all nanoseconds of it are that process."""
    fake.add(9, 100)
    for start_ns, found in ((100 * TICK_NS, True), (100 * TICK_NS - 1, False), (101 * TICK_NS, False)):
        process = fake.resolve(seen(9, 0, "curl", start_ns=start_ns))
        assert (process.cmdline is not None) is found


@pytest.mark.parametrize(
    "comm",
    [b"a) S 1 2 3 (", b"x) (y", b") ", b"(", b"new\nline", b"\xff\xfe", b"caf\xc3\xa9", b" "],
)
def test_hostile_name(fake: FakeProc, comm: bytes) -> None:
    """A name may look like the rest of the line it stands in."""
    fake.add(9, 100, comm)
    process = fake.resolve(seen(9, 100, os.fsdecode(comm)))
    assert process.cmdline == "curl http://a/"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\0b\0", "a b"),
        (b"a\0\0b\0", "a  b"),
        (b"a b\0c", "a b c"),
        (b"\xff\xfe\0\n\x1b[31m\0", "\udcff\udcfe \n\x1b[31m"),
        (b"a\0\0\0", "a"),
        (b"\0", ""),
        (b"", None),
        (b"x" * (CMDLINE_BYTES + 10), "x" * CMDLINE_BYTES),
        (b"x" * (CMDLINE_BYTES - 1) + b"\xc3\xa9", "x" * (CMDLINE_BYTES - 1) + "\udcc3"),
    ],
)
def test_command_line(fake: FakeProc, raw: bytes, text: str | None) -> None:
    """Arguments are joined by spaces and cut at the limit; bytes that are no text survive."""
    fake.add(9, 100, cmdline=raw)
    assert fake.resolve(seen(9, 100, "curl")).cmdline == text


@pytest.mark.parametrize(
    ("link", "exe"),
    [
        (b"/usr/bin/curl (deleted)", "/usr/bin/curl"),
        (b"/opt/\xff", "/opt/\udcff"),
        (None, None),
    ],
)
def test_executable(fake: FakeProc, link: bytes | None, exe: str | None) -> None:
    """A program that was replaced keeps its path, and one that can't be read has none."""
    fake.add(9, 100, exe=link)
    assert fake.resolve(seen(9, 100, "curl")).exe == exe


def test_another_pid_namespace(fake: FakeProc) -> None:
    """Where /proc counts processes differently it is not looked at, and that is no loss of one process."""
    fake.add(9, 100)
    fake.add(8, 50, b"bash")
    resolver = ProcfsResolver(fake.losses, usable=False, root=fake.root)
    asked = seen(9, 100, "curl", parent_pid=8, parent_start_ns=50 * TICK_NS, parent_comm="bash")
    process = resolver.resolve(asked)
    assert process.parent
    assert (process.cmdline, process.exe, process.user) == (None, None, user_name(0))
    assert (process.parent.name, process.parent.cmdline, process.parent.parent) == ("bash", None, None)
    assert fake.losses.snapshot() == {}


class TestParents:
    """A child (9) of bash (8) of sshd (7)."""

    child = seen(9, 100, "curl", parent_pid=8, parent_start_ns=50 * TICK_NS + 1, parent_comm="bash")

    @pytest.fixture(autouse=True)
    def family(self, fake: FakeProc) -> None:
        """Three generations."""
        fake.add(9, 100, parent=8)
        fake.add(8, 50, b"bash", 7, b"-bash\0", b"/bin/bash", uid=4294967293)
        fake.add(7, 20, b"sshd", 1, b"sshd: x\0", b"/usr/sbin/sshd", uid=4294967294)

    def test_both_are_known(self, fake: FakeProc) -> None:
        """Parent and grandparent are whole, and no more generations are read."""
        process = fake.resolve(self.child)
        grandparent = Process(
            pid=7,
            start_ns=20 * TICK_NS,
            comm="sshd",
            name="sshd",
            exe="/usr/sbin/sshd",
            cmdline="sshd: x",
            uid=4294967294,
            user="4294967294",
        )
        assert process.parent == Process(
            pid=8,
            start_ns=50 * TICK_NS + 1,
            comm="bash",
            name="bash",
            exe="/bin/bash",
            cmdline="-bash",
            uid=4294967293,
            user="4294967293",
            parent=grandparent,
        )

    @pytest.mark.parametrize(("start", "comm"), [(51, b"bash"), (50, b"other")])
    def test_another_process_is_no_parent(self, fake: FakeProc, start: int, comm: bytes) -> None:
        """Of a parent that has gone only what the kernel saw is known."""
        fake.add(8, start, comm, 7)
        expected = Process(pid=8, start_ns=50 * TICK_NS + 1, comm="bash", name="bash")
        assert fake.resolve(self.child).parent == expected

    def test_younger_process_is_no_grandparent(self, fake: FakeProc) -> None:
        """A process that started after its child has the number of the one that was the parent."""
        fake.add(7, 51, b"sshd")
        parent = fake.resolve(self.child).parent
        assert parent
        assert parent.cmdline == "-bash"
        assert parent.parent is None

    def test_parent_that_was_adopted_meanwhile(self, fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the grandparent dies while it is read, its number may be another's already: it is left out."""
        original = ProcfsResolver._uid

        def adopted(self: ProcfsResolver, pid: int) -> int | None:
            if pid == 7:
                fake.add(8, 50, b"bash", 1)
            return original(self, pid)

        monkeypatch.setattr(ProcfsResolver, "_uid", adopted)
        parent = fake.resolve(self.child).parent
        assert parent
        assert parent.parent is None

    def test_siblings_share_their_parent(self, fake: FakeProc) -> None:
        """A parent is read once."""
        first = fake.resolve(self.child).parent
        second = fake.resolve(self.child._replace(pid=10)).parent
        assert first is second is not None

    def test_parents_that_are_kept_are_bounded(self, fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest is forgotten first."""
        monkeypatch.setattr(procfs, "_PARENTS_KEPT", 2)
        first = fake.resolve(self.child).parent
        for pid in (20, 21):
            parent = fake.resolve(self.child._replace(parent_pid=pid)).parent
            assert parent
            assert parent.pid == pid
        assert len(fake.resolver._parents) == 2
        assert fake.resolve(self.child).parent is not first

    def test_no_parent(self, fake: FakeProc) -> None:
        """The first process has none."""
        assert fake.resolve(self.child._replace(parent_pid=0)).parent is None


def test_real_process_with_its_ancestors() -> None:
    """A shell in a shell that this process started: three generations as /proc has them."""
    inner = "echo $$; read line; :"
    with running("sh", "-c", f'sh -c "{inner.replace("$", chr(92) + "$")}"; :') as (outer, said):
        pid = int(said)
        losses = Losses()
        process = ProcfsResolver(losses).resolve(
            seen(
                pid,
                start_ticks(pid),
                "sh",
                parent_pid=outer.pid,
                parent_start_ns=start_ticks(outer.pid) * TICK_NS,
                parent_comm="sh",
            )
        )
        shell = str(Path(f"/proc/{outer.pid}/exe").readlink())
    assert process.cmdline == f"sh -c {inner}"
    assert process.exe == shell
    parent = process.parent
    assert parent
    assert parent.pid == outer.pid
    assert parent.cmdline is not None
    assert parent.cmdline.startswith("sh -c sh -c")
    assert parent.uid == os.getuid()
    grandparent = parent.parent
    assert grandparent
    assert (grandparent.pid, grandparent.comm) == (os.getpid(), comm_of(os.getpid()))
    assert grandparent.exe == str(Path("/proc/self/exe").readlink())
    assert losses.snapshot() == {}


def test_real_process_with_hostile_bytes() -> None:
    """Arguments that are no text come back as the bytes that they were."""
    argument = os.fsdecode(b"\xff\xfe\n\x1b]0;x\x07")
    with running("sh", "-c", "echo; read line; :", argument) as (child, _):
        process = ProcfsResolver(Losses()).resolve(seen(child.pid, start_ticks(child.pid), "sh"))
    assert process.cmdline == f"sh -c echo; read line; : {argument}"


def test_real_process_after_exec() -> None:
    """A process that runs another program by now is not given that program's command line."""
    with running("sh", "-c", "echo; read line; exec cat") as (child, _):
        asked = seen(child.pid, start_ticks(child.pid), comm_of(child.pid))
        assert child.stdin
        assert child.stdout
        child.stdin.write("for sh\nfor cat\n")
        child.stdin.flush()
        assert child.stdout.readline() == "for cat\n"
        losses = Losses()
        process = ProcfsResolver(losses).resolve(asked)
    assert (process.name, process.cmdline, process.exe) == ("sh", None, None)
    assert losses.snapshot() == {GONE: 1}


def test_real_process_that_exited() -> None:
    """Of a process that has gone the kernel's facts are kept, and what is missing is counted."""
    with running("sh", "-c", "echo; read line; :") as (child, _):
        asked = seen(child.pid, start_ticks(child.pid), "sh", uid=4294967294)
    losses = Losses()
    process = ProcfsResolver(losses).resolve(asked)
    assert (process.pid, process.start_ns, process.cgroup_id) == (asked.pid, asked.start_ns, 5)
    assert (process.name, process.user) == ("sh", "4294967294")
    assert (process.cmdline, process.exe) == (None, None)
    assert losses.snapshot() == {GONE: 1}


@pytest.mark.parametrize("uid", [4294967293, 4294967295])
def test_user_without_a_name(uid: int) -> None:
    """The number stands for a user who has no name."""
    assert user_name(uid) == str(uid)


def test_user_with_a_name() -> None:
    """Root has one everywhere."""
    assert user_name(0) == "root"

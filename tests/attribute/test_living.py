# SPDX-License-Identifier: MIT
"""What /proc shows of a running process, each part for itself, and the same object while nothing of it changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.attribute.containers import ContainerNames
from pyegress.attribute.living import ANCESTORS, BUSY, Living
from pyegress.attribute.procfs import ARGS_BYTES, TICK_NS, parse_stat
from pyegress.record import Process
from tests.attribute.acting import NOBODY, acting, ending, needs_root
from tests.attribute.test_procfs import running

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = "3dd988081e7149463c043b5d9c57d7309e079c5e9290f91feba1cc45a04d6a5b"
NO_USER = 4294967294
WAITS = "echo; read line; :"


def start_of(pid: int) -> int:
    """When a running process started."""
    stat = parse_stat(Path(f"/proc/{pid}/stat").read_bytes())
    assert stat is not None
    return stat.start_ns


def open_files() -> int:
    """Descriptors of ours."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def shown(living: Living, pid: int) -> Process:
    """The process that has the number."""
    process = living.process(pid, start_of(pid))
    assert process is not None
    return process


def lineage(process: Process) -> list[int | None]:
    """Numbers of the ancestors, nearest first."""
    found = []
    while process.parent:
        process = process.parent
        found.append(process.pid)
    return found


@pytest.fixture
def living() -> Living:
    """Of this host."""
    return Living(lambda: None)


class TestProcess:
    """A real one."""

    def test_own(self, living: Living) -> None:
        """All that is known of ourselves in other ways."""
        process = shown(living, os.getpid())
        assert (process.pid, process.start_ns) == (os.getpid(), start_of(os.getpid()))
        assert process.exe == os.path.realpath("/proc/self/exe")
        args = Path("/proc/self/cmdline").read_bytes()
        assert process.cmdline == os.fsdecode(args[:ARGS_BYTES]).rstrip("\0").replace("\0", " ")
        assert process.comm == os.fsdecode(Path("/proc/self/comm").read_bytes()).removesuffix("\n")
        assert (process.uid, process.gid, process.kernel) == (os.getuid(), os.getgid(), False)
        assert process.session_pid == (os.getsid(0) or None)
        assert (process.netns, process.pidns) == (
            Path("/proc/self/ns/net").stat().st_ino,
            Path("/proc/self/ns/pid").stat().st_ino,
        )
        assert process.attribution == "sock_diag"
        assert lineage(process)[:1] == [os.getppid()]

    def test_login_user(self, living: Living) -> None:
        """Unset is unknown, not a number."""
        number = int(Path("/proc/self/loginuid").read_text())
        assert shown(living, os.getpid()).loginuid == (None if number == NO_USER + 1 else number)

    def test_arguments_are_cut(self, living: Living) -> None:
        """At the limit, and that is said."""
        with running("sh", "-c", WAITS, "x" * 9000) as (child, _):
            process = shown(living, child.pid)
        assert process.cmdline_cut
        assert process.cmdline is not None
        assert len(process.cmdline) == ARGS_BYTES

    def test_script(self, living: Living, tmp_path: Path) -> None:
        """What an interpreter runs."""
        script = tmp_path / "waits"
        script.write_text("echo; read line; :\n")
        with running("sh", str(script)) as (child, _):
            assert shown(living, child.pid).script == str(script)

    @needs_root
    def test_real_ids(self, living: Living) -> None:
        """Of a set-user-ID program the user who runs it, as the ebpf input tells; no name is no error."""
        with acting() as actor:
            actor.do(f"os.setresgid({NO_USER - 1}, 0, 0)")
            actor.do(f"os.setresuid({NO_USER}, 0, 0)")
            process = shown(living, actor.pid)
        assert (process.uid, process.gid, process.user) == (NO_USER, NO_USER - 1, str(NO_USER))

    @pytest.mark.parametrize(
        "comm", [b"\xff\xfe", b"a b", b"x) S 1 2 (y", b"line\nline", b"caf\xc3\xa9", b") ", b""]
    )
    def test_hostile_name(self, living: Living, comm: bytes) -> None:
        """Any bytes, as surrogates where they are no text."""
        with acting() as actor:
            actor.do(f"open('/proc/self/comm', 'wb').write({comm!r})" if comm else "0")
            if not comm:
                actor.do("__import__('ctypes').CDLL(None).prctl(15, b'', 0, 0, 0)")
            process = shown(living, actor.pid)
        assert process.comm == comm.decode("utf-8", "surrogateescape")
        assert (process.pid, lineage(process)[:1]) == (actor.pid, [os.getpid()])

    def test_deleted_program(self, living: Living, tmp_path: Path) -> None:
        """Its path, without the mark."""
        path = tmp_path / "a \udcff shell"
        shutil.copy(os.path.realpath("/bin/sh"), path)
        with running("sh", "-c", WAITS, executable=path) as (child, _):
            path.unlink()
            assert shown(living, child.pid).exe == str(path)

    def test_kernel_thread(self, living: Living) -> None:
        """It has no program, and no parent that is one."""
        stat = Path("/proc/2/stat")
        if not stat.exists() or b"(kthreadd)" not in stat.read_bytes():
            pytest.skip("no kernel threads are seen here")
        process = shown(living, 2)
        assert (process.name, process.kernel, process.exe, process.cmdline) == ("kthreadd", True, None, None)
        assert process.parent is None

    def test_first_process(self, living: Living) -> None:
        """It has no parent."""
        assert lineage(shown(living, 1)) == []

    def test_daemon(self, living: Living) -> None:
        """The parent is the one that it was given to, and the rest is as of any other."""
        with acting() as actor, ending(actor.do("orphaned()")) as pid:
            process = shown(living, pid)
            assert process.parent is not None
            assert process.parent.pid != actor.pid
            assert (process.session_pid, process.exe) == (pid, os.path.realpath(sys.executable))

    def test_no_more_than_some_ancestors(self, living: Living) -> None:
        """A chain of shells, each the parent of the next."""
        script = 'if [ "$1" -gt 0 ]; then sh -c "$0" "$0" $(($1 - 1)); :; else echo $$; read line; fi'
        with running("sh", "-c", script, script, "12") as (_, innermost):
            found = lineage(shown(living, int(innermost)))
        assert len(found) == len(set(found)) == ANCESTORS


class TestSameObject:
    """What is cached by it stays right."""

    def test_nothing_changed(self, living: Living) -> None:
        """The very same."""
        assert shown(living, os.getpid()) is shown(living, os.getpid())

    @pytest.mark.parametrize(
        ("change", "field", "value"),
        [
            ("open('/proc/self/comm', 'wb').write(b'other')", "comm", "other"),
            pytest.param(f"os.setuid({NOBODY})", "uid", NOBODY, marks=needs_root),
            pytest.param(f"os.setgid({NOBODY})", "gid", NOBODY, marks=needs_root),
        ],
    )
    def test_change(self, living: Living, change: str, field: str, value: object) -> None:
        """A name, a user, a group: another object, with the same ancestors."""
        with acting() as actor:
            before = shown(living, actor.pid)
            actor.do(change)
            after = shown(living, actor.pid)
        assert getattr(after, field) == value != getattr(before, field)
        assert after.parent is before.parent

    def test_exec(self, living: Living) -> None:
        """The same process runs another program."""
        with running("sh", "-c", "echo; read line; exec cat -u -") as (child, _):
            before = shown(living, child.pid)
            assert child.stdin and child.stdout
            child.stdin.write(b"for sh\nfor cat\n")
            child.stdin.flush()
            child.stdout.readline()
            after = shown(living, child.pid)
        assert (before.comm, after.comm, after.cmdline) == ("sh", "cat", "cat -u -")
        assert after.exe != before.exe
        assert after.start_ns == before.start_ns

    def test_ancestors_are_as_they_were(self, living: Living) -> None:
        """When one of theirs was first seen; they are shared."""
        with acting() as actor, ending(actor.do("forked()")) as first:
            before = shown(living, first).parent
            actor.do("open('/proc/self/comm', 'wb').write(b'renamed')")
            with ending(actor.do("forked()")) as second:
                assert shown(living, second).parent is before
            assert shown(living, first).parent is before

    def test_parent_that_ended(self, living: Living) -> None:
        """It stays the parent of whom it was seen with."""
        with acting() as actor, ending(actor.do("forked()")) as child:
            before = shown(living, child)
            assert lineage(before)[:1] == [actor.pid]
            with ending(actor.pid):
                pass
            assert shown(living, child) is before


class FakeProc:
    """A /proc of made-up processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, pid: int, parent: int = 0, start: int = 100, cgroup: str = "0::/\n", **files: str) -> None:
        """Let one run."""
        folder = self.root / str(pid)
        folder.mkdir()
        fields = ["0"] * 50
        fields[0], fields[1], fields[19] = "S", str(parent), str(start)
        (folder / "stat").write_text(f"{pid} (x) {' '.join(fields)}\n")
        (folder / "cgroup").write_text(cgroup)
        for name, content in files.items():
            (folder / name).write_text(content)

    def living(self, **settings: int) -> Living:
        """What shows them; containers have no names."""
        return Living(lambda: None, ContainerNames(self.root), self.root / "cgroup", self.root, **settings)

    def shown(self, pid: int, start: int = 100) -> Process | None:
        """One of them."""
        return self.living().process(pid, start * TICK_NS)


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    """An empty one."""
    return FakeProc(tmp_path)


class TestParts:
    """Each of them can be missing."""

    def test_nothing_but_the_line(self, fake: FakeProc) -> None:
        """The rest is unknown, which is no zero."""
        fake.add(9)
        (fake.root / "9/cgroup").unlink()
        process = fake.shown(9)
        assert process == Process(pid=9, start_ns=100 * TICK_NS, comm="x", name="x", attribution="sock_diag")

    def test_same_arguments_of_another_program(self, fake: FakeProc) -> None:
        """Where addresses aren't random, only the file tells."""
        fake.add(9)
        living = fake.living()
        found = []
        for path in ("/bin/x", "/tmp/x"):
            (fake.root / "9/exe").unlink(missing_ok=True)
            (fake.root / "9/exe").symlink_to(path)
            process = living.process(9, 100 * TICK_NS)
            found.append(process and process.exe)
        assert found == ["/bin/x", "/tmp/x"]

    def test_another_start(self, fake: FakeProc) -> None:
        """The number is another process'."""
        fake.add(9, start=200)
        assert fake.shown(9) is None
        assert fake.shown(10) is None

    @pytest.mark.parametrize(
        ("cgroup", "path", "unit"),
        [
            ("0::/system.slice/ssh.service\n", "/system.slice/ssh.service", "ssh.service"),
            ("0::/\n", "/", None),
            ("8:pids:/a\n4:memory:/b\n0::/\n", "/a", None),
            ("8:cpu,pids:/\n4:memory:/b\n0::/\n", "/b", None),
            ("8:pids:/a\n4:memory:/b\n", "/a", None),
            ("8:pids:/\n0::/system.slice/ssh.service\n", "/system.slice/ssh.service", "ssh.service"),
            ("8:pids:/a\n0::/b:c\n", "/b:c", None),
            ("8:pids:/\n4:memory:/\n", None, None),
        ],
    )
    def test_cgroup(self, fake: FakeProc, cgroup: str, path: str | None, unit: str | None) -> None:
        """That of v2, or where it says nothing, of v1's `pids` or `memory`."""
        fake.add(9, cgroup=cgroup)
        process = fake.shown(9)
        assert process is not None
        assert (process.cgroup, process.unit) == (path, unit)

    def test_number_of_the_cgroup(self, fake: FakeProc) -> None:
        """That of its folder; v1's are left out."""
        folder = fake.root / "cgroup/system.slice"
        folder.mkdir(parents=True)
        fake.add(9, cgroup="0::/system.slice\n")
        fake.add(10, cgroup="8:pids:/system.slice\n0::/\n")
        fake.add(11, cgroup="0::/gone\n")
        found = [fake.shown(pid) for pid in (9, 10, 11)]
        assert [process and process.cgroup_id for process in found] == [folder.stat().st_ino, None, None]

    def test_container(self, fake: FakeProc) -> None:
        """As for any other input."""
        fake.add(9, cgroup=f"0::/system.slice/docker-{CONTAINER}.scope\n")
        process = fake.shown(9)
        assert process is not None
        assert (process.container, process.container_engine) == (CONTAINER, "docker")

    def test_missing_parent(self, fake: FakeProc) -> None:
        """A process of which only the parent's number is known has none."""
        fake.add(9, parent=8)
        process = fake.shown(9)
        assert process is not None
        assert process.parent is None

    def test_parent_that_is_younger(self, fake: FakeProc) -> None:
        """That is another process with the parent's number."""
        fake.add(9, parent=8)
        fake.add(8, start=101)
        process = fake.shown(9)
        assert process is not None
        assert process.parent is None

    def test_grandparent_is_the_first(self, fake: FakeProc) -> None:
        """The chain ends there, and ancestors are marked as read in /proc."""
        fake.add(1, start=1)
        fake.add(8, parent=1, start=50)
        fake.add(9, parent=8)
        process = fake.shown(9)
        assert process is not None
        assert lineage(process) == [8, 1]
        assert process.parent and process.parent.attribution == "proc"

    def test_memory_is_bounded(self, fake: FakeProc) -> None:
        """The oldest are forgotten."""
        living = fake.living(kept=5)
        fake.add(1, start=1)
        for pid in range(10, 40):
            fake.add(pid, parent=pid - 1 if pid % 10 else 1)
            assert living.process(pid, 100 * TICK_NS)
        assert (len(living._kept), len(living._ancestors) <= 5) == (5, True)


class TestKeptOpen:
    """Files of a process that is asked for again stay open."""

    def test_changes_are_seen(self, living: Living) -> None:
        """What they say is read anew each time, and nothing once the process has ended."""
        with acting() as actor:
            start_ns, first = start_of(actor.pid), shown(living, actor.pid)
            assert all(shown(living, actor.pid) is first for _ in range(3))
            for name in (b"one", b"two"):
                actor.do(f"open('/proc/self/comm', 'wb').write({name!r})")
                assert shown(living, actor.pid).comm == name.decode()
        assert living.process(actor.pid, start_ns) is None

    def test_bounded(self, fake: FakeProc) -> None:
        """No more than for some processes, none after the end."""
        before = open_files()
        living = fake.living()
        pids = range(10, 10 + 2 * BUSY)
        for pid in pids:
            fake.add(pid, cmdline="x", status="")
        for _ in range(2):
            assert all(living.process(pid, 100 * TICK_NS) for pid in pids)
        assert open_files() - before == 4 * BUSY
        living.close()
        assert open_files() == before


@needs_root
def test_without_rights() -> None:
    """The user is shown what others may see, and is told once asked for more."""
    code = f"""
import os
from pyegress.attribute.living import Living
from pyegress.attribute.procfs import parse_stat
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
told = []
stat = parse_stat(open("/proc/{os.getpid()}/stat", "rb").read())
process = Living(lambda: told.append(1)).process({os.getpid()}, stat.start_ns)
print(process.exe, process.uid, process.netns, process.cmdline is None, bool(told))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["None", "0", "None", "False", "True"]

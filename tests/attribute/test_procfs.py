# SPDX-License-Identifier: MIT
"""What /proc tells is taken of the very program that the kernel named, and of no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.attribute import procfs
from pyegress.attribute.procfs import ARGS_BYTES, TICK_NS, Found, Missing, Procfs, parse_stat

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
WAITS = "echo; read line; :"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def facts(pid: int) -> tuple[int, int, int]:
    """Number, start and address of the arguments, as the kernel side would tell them of a running process."""
    # proc_pid_stat(5) counts fields from 1; the third is the first behind the name.
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return pid, int(fields[22 - 3]) * TICK_NS + TICK_NS - 1, int(fields[48 - 3])


@contextmanager
def running(
    *command: str | bytes, executable: str | Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process that has said a line, and its line; it ends when its input does."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, executable=executable
    ) as process:
        assert process.stdout
        yield process, process.stdout.readline().decode().strip()
        process.communicate()


def said(find: tuple[int, int, int], before: str = "", *command: str) -> str:
    """What a program of its own finds, after the statement `before`: the path, or why there is none."""
    code = f"""
import os
from pyegress.attribute.procfs import Found, Procfs
{before}
found = Procfs().find{find}
print(f"found {{found.exe}}" if isinstance(found, Found) else found.name)
"""
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def as_nobody(find: tuple[int, int, int], *command: str) -> str:
    """The same of a user without rights."""
    return said(find, f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})", *command)


class FakeProc:
    """A /proc of made-up processes."""

    start = 100
    arg_start = 0x7FFD_0000_1000

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid: int = 9,
        comm: bytes = b"curl",
        state: bytes = b"S",
        start: int = start,
        arg_start: int = arg_start,
        cmdline: bytes = b"curl\0http://a/\0",
        exe: bytes = b"/usr/bin/curl",
    ) -> None:
        """Let a process run."""
        folder = self.root / str(pid)
        folder.mkdir()
        # Every field has another value, so that no neighbour passes for the one that is meant.
        fields = [b"%d" % (1000 + number) for number in range(3, 53)]
        fields[0], fields[22 - 3], fields[48 - 3] = state, b"%d" % start, b"%d" % arg_start
        (folder / "stat").write_bytes(b"%d (%s) %s\n" % (pid, comm, b" ".join(fields)))
        (folder / "cmdline").write_bytes(cmdline)
        (folder / "exe").symlink_to(os.fsdecode(exe))

    def find(
        self, pid: int = 9, start_ns: int = start * TICK_NS, arg_start: int = arg_start
    ) -> Found | Missing:
        """What is found there."""
        return Procfs(self.root).find(pid, start_ns, arg_start)

    def found(self) -> Found:
        """What is found of the process that is there."""
        found = self.find()
        assert isinstance(found, Found)
        return found


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    """An empty /proc."""
    return FakeProc(tmp_path)


def test_real_process() -> None:
    """Path and arguments of a running program."""
    with running("sh", "-c", WAITS, "two words", "") as (child, _):
        found = Procfs().find(*facts(child.pid))
        shell = os.readlink(f"/proc/{child.pid}/exe")  # noqa: PTH115
    assert found == Found(shell, b"sh\0-c\0" + WAITS.encode() + b"\0two words\0\0", False)


def test_own_process() -> None:
    """The interpreter itself, by the kernel's own list of its arguments."""
    found = Procfs().find(*facts(os.getpid()))
    assert isinstance(found, Found)
    assert found.exe == os.path.realpath("/proc/self/exe")
    assert found.args == Path("/proc/self/cmdline").read_bytes()[:ARGS_BYTES]


def test_start_is_the_one_of_the_kernel() -> None:
    """A child's start, in ns of the boot clock, is between the readings of that clock around it, to the tick."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with running("sh", "-c", WAITS) as (child, _):
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        _, start_ns, arg_start = facts(child.pid)
        assert before // TICK_NS <= start_ns // TICK_NS <= after // TICK_NS
        assert isinstance(Procfs().find(child.pid, start_ns, arg_start), Found)
    assert TICK_NS * os.sysconf("SC_CLK_TCK") == 1_000_000_000


def test_another_start_is_another_process() -> None:
    """A number used again is not the process that is asked for; all nanoseconds of a tick are the same start."""
    with running("sh", "-c", WAITS) as (child, _):
        pid, start_ns, arg_start = facts(child.pid)
        first = start_ns // TICK_NS * TICK_NS
        assert isinstance(Procfs().find(pid, first, arg_start), Found)
        assert isinstance(Procfs().find(pid, first + TICK_NS - 1, arg_start), Found)
        for other in (first - 1, first + TICK_NS, 0):
            assert Procfs().find(pid, other, arg_start) is Missing.GONE


def test_another_address_is_another_program() -> None:
    """The same process with its arguments elsewhere has run another program since."""
    with running("sh", "-c", WAITS) as (child, _):
        pid, start_ns, arg_start = facts(child.pid)
        for other in (arg_start - 1, arg_start + 4096, 1):
            assert Procfs().find(pid, start_ns, other) is Missing.CHANGED


def test_exec() -> None:
    """A process that runs another program by now gives nothing of it, and everything to who asks for that one."""
    with running("sh", "-c", "echo; read line; exec cat -u -") as (child, _):
        before = facts(child.pid)
        assert child.stdin and child.stdout
        child.stdin.write(b"for sh\nfor cat\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"for cat\n"
        after = facts(child.pid)
        changed, found = Procfs().find(*before), Procfs().find(*after)
    if before == after:
        pytest.skip("addresses aren't chosen by chance here (kernel.randomize_va_space)")
    assert changed is Missing.CHANGED
    assert isinstance(found, Found)
    assert found.args == b"cat\0-u\0-\0"


def test_forked_child_is_another_process() -> None:
    """It has the parent's program and addresses, and its own number and start."""
    with running("sh", "-c", f"({WAITS}); :") as (parent, _):
        (inner,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        pid, start_ns, arg_start = facts(int(inner))
        assert arg_start == facts(parent.pid)[2]
        assert isinstance(Procfs().find(pid, start_ns, arg_start), Found)
        assert Procfs().find(pid, start_ns + TICK_NS, arg_start) is Missing.GONE


def test_ended() -> None:
    """A number that nobody has any more."""
    with running("sh", "-c", WAITS) as (child, _):
        asked = facts(child.pid)
    assert Procfs().find(*asked) is Missing.GONE


def test_ended_and_not_waited_for() -> None:
    """Of a zombie there is an entry in /proc, and no program."""
    with running("sh", "-c", WAITS) as (child, _):
        asked = facts(child.pid)
        assert child.stdin
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Procfs().find(*asked) is Missing.GONE
        child.stdin = None


@pytest.mark.parametrize("pid", [1 << 22, (1 << 31) - 1])
def test_number_that_no_process_has(pid: int) -> None:
    """Numbers end below the first of these, which is the kernel's own limit."""
    assert Procfs().find(pid, 0, 1) is Missing.GONE


def test_kernel_thread_has_no_program() -> None:
    """It is there, with nothing to tell."""
    stat = Path("/proc/2/stat")
    if os.geteuid() or not stat.exists() or b"(kthreadd)" not in stat.read_bytes():
        pytest.skip("no kernel threads are seen here")
    assert Procfs().find(*facts(2)) is Missing.GONE


@pytest.mark.parametrize(("extra", "cut"), [(-1, False), (0, False), (1, True), (60_000, True)])
def test_cut(extra: int, cut: bool) -> None:
    """No more than the limit is read, and it is told when there was more."""
    start = b"sh\0-c\0" + WAITS.encode() + b"\0"
    argument = b"x" * (ARGS_BYTES + extra - len(start) - 1)
    with running("sh", "-c", WAITS, argument) as (child, _):
        found = Procfs().find(*facts(child.pid))
    assert isinstance(found, Found)
    assert found.cut is cut
    assert found.args == (start + argument + b"\0")[:ARGS_BYTES]


def test_bytes_that_are_no_text() -> None:
    """Arguments come back as the bytes that they were."""
    argument = b"\xff\xfe\n\x1b]0;x\x07 "
    with running("sh", "-c", WAITS, argument) as (child, _):
        found = Procfs().find(*facts(child.pid))
    assert isinstance(found, Found)
    assert found.args == b"sh\0-c\0" + WAITS.encode() + b"\0" + argument + b"\0"


@pytest.mark.parametrize("name", [b"shell", b"a b", b"\xff\xfe", b"x) S 1 2 (y", b"line\nline", b") "])
@pytest.mark.parametrize("deleted", [False, True])
def test_executable(name: bytes, deleted: bool, tmp_path: Path) -> None:
    """Its path, with any bytes, also when the file is no more; the name in the brackets may hold brackets too."""
    path = tmp_path / os.fsdecode(name)
    shutil.copy(os.path.realpath("/bin/sh"), path)
    with running("sh", "-c", WAITS, executable=path) as (child, _):
        if deleted:
            path.unlink()
        # The kernel calls the process by its file's name.
        assert Path(f"/proc/{child.pid}/comm").read_bytes() == name + b"\n"
        found = Procfs().find(*facts(child.pid))
    assert isinstance(found, Found)
    assert found.exe == str(path)


@needs_root
def test_without_rights() -> None:
    """A user is shown the arguments and not the program of root's processes: nothing of it is used."""
    with running("sh", "-c", WAITS) as (child, _):
        asked = facts(child.pid)
        assert said(asked) == f"found {os.path.realpath(f'/proc/{child.pid}/exe')}"
        assert as_nobody(asked) == "FORBIDDEN"
    assert as_nobody(asked) == "GONE"


@needs_root
def test_own_processes_without_rights() -> None:
    """A user's own process is no one else's business."""
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    with running(*nobody, "sh", "-c", WAITS) as (child, _):
        assert as_nobody(facts(child.pid)).startswith("found /")


@needs_root
def test_hidden_processes() -> None:
    """Mounted with hidepid, /proc does not even show that a process is there; the one that isn't is gone still."""
    mounted = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 none /proc && exec "$@"', "sh")
    with running("sh", "-c", WAITS) as (child, _):
        asked = facts(child.pid)
        assert said(asked, "", *mounted).startswith("found /")
        assert as_nobody(asked, *mounted) == "FORBIDDEN"
    assert as_nobody(asked, *mounted) == "GONE"


@needs_root
def test_process_in_another_pid_namespace() -> None:
    """The number is the one that the reader's own /proc has for it."""
    inner = ("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", WAITS)
    with running(*inner) as (outer, _):
        (child,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        found = Procfs().find(*facts(int(child)))
    assert isinstance(found, Found)
    assert found.args == b"sh\0-c\0" + WAITS.encode() + b"\0"


def test_fake_process(fake: FakeProc) -> None:
    """The made-up /proc is one, so that what is refused below is refused for its one difference."""
    fake.add()
    assert fake.find() == Found("/usr/bin/curl", b"curl\0http://a/\0", False)


@pytest.mark.parametrize(
    "comm",
    [b"a) S 1 2 3 (", b"x) (y", b") ", b"(", b"new\nline", b"\xff\xfe", b"caf\xc3\xa9", b" ", b""],
)
def test_hostile_name(fake: FakeProc, comm: bytes) -> None:
    """A name may look like the rest of the line it stands in."""
    fake.add(comm=comm)
    assert fake.found().args == b"curl\0http://a/\0"


@pytest.mark.parametrize(
    ("link", "exe"),
    [
        (b"/usr/bin/curl (deleted)", "/usr/bin/curl"),
        (b"/usr/bin/curl (deleted) (deleted)", "/usr/bin/curl (deleted)"),
        (b"/memfd:x (deleted)", "/memfd:x"),
        (b"/opt/\xff", "/opt/\udcff"),
        (b"/ (deleted)/x", "/ (deleted)/x"),
        (b"/", "/"),
    ],
)
def test_deleted_executable(fake: FakeProc, link: bytes, exe: str) -> None:
    """One mark of the kernel's is taken away, wherever else the words may stand."""
    fake.add(exe=link)
    assert fake.found().exe == exe


@pytest.mark.parametrize("cmdline", [b"", b"\0", b"a", b"a\0\0\0", b"a b\0c"])
def test_arguments_are_not_changed(fake: FakeProc, cmdline: bytes) -> None:
    """A program may have written over its own."""
    fake.add(cmdline=cmdline)
    assert fake.found() == Found("/usr/bin/curl", cmdline, False)


@pytest.mark.parametrize(
    ("state", "missing"),
    [(b"S", Missing.FORBIDDEN), (b"R", Missing.FORBIDDEN), (b"Z", Missing.GONE), (b"X", Missing.GONE)],
)
def test_address_that_is_not_shown(fake: FakeProc, state: bytes, missing: Missing) -> None:
    """It is 0 for who may not know it, and where there is no memory any more; 0 never matches."""
    fake.add(state=state, arg_start=0)
    assert fake.find() is missing
    assert fake.find(arg_start=0) is missing


def test_start_decides_before_the_address(fake: FakeProc) -> None:
    """Another process with the number is not called the same one with another program, or without permission."""
    fake.add()
    assert fake.find(start_ns=101 * TICK_NS, arg_start=1) is Missing.GONE
    fake.add(10, arg_start=0)
    assert fake.find(10, start_ns=101 * TICK_NS) is Missing.GONE


@pytest.mark.parametrize("stat", [b"", b"9 (curl) S", b"9 (curl) S 1 2", b"garbage", b") " * 99])
def test_line_that_is_not_whole(fake: FakeProc, stat: bytes) -> None:
    """A kernel that does not tell the address, or a line that is none, matches nothing."""
    fake.add()
    (fake.root / "9/stat").write_bytes(stat)
    assert fake.find() is Missing.GONE


@pytest.mark.parametrize("place", [22, 48])
def test_field_that_is_no_number(fake: FakeProc, place: int) -> None:
    """A line as long as one of the kernel's, from what only looks like /proc, matches nothing."""
    fake.add()
    path = fake.root / "9/stat"
    head, _, tail = path.read_bytes().rpartition(b") ")
    fields = tail.split()
    fields[place - 3] = b"x"
    path.write_bytes(head + b") " + b" ".join(fields) + b"\n")
    assert fake.find() is Missing.GONE


@pytest.mark.parametrize("name", ["stat", "cmdline", "exe"])
def test_process_that_ends_while_it_is_read(fake: FakeProc, name: str) -> None:
    """Whichever file is missing, the others tell nothing."""
    fake.add()
    (fake.root / "9" / name).unlink()
    assert fake.find() is Missing.GONE


@pytest.mark.parametrize("name", ["cmdline", "exe"])
def test_exec_while_it_is_read(fake: FakeProc, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before an exec is not given out as what is there after it, nor the other way round."""
    fake.add()
    fake.add(10, arg_start=FakeProc.arg_start + 4096)
    function = {"cmdline": "read_file", "exe": "read_exe"}[name]
    original = getattr(procfs, function)

    def execs(path: str, *rest: object) -> object:
        told = original(path, *rest)
        if name == "exe" or path.endswith("cmdline"):
            (fake.root / "9").rename(fake.root / "old")
            (fake.root / "10").rename(fake.root / "9")
        return told

    monkeypatch.setattr(procfs, function, execs)
    assert fake.find() is Missing.CHANGED


def test_own_line() -> None:
    """All that is taken of a line of the kernel's own."""
    stat = parse_stat(Path("/proc/self/stat").read_bytes())
    pid, start_ns, arg_start = facts(os.getpid())
    assert stat is not None
    assert stat.comm + b"\n" == Path(f"/proc/{pid}/comm").read_bytes()
    assert (stat.parent, stat.session, stat.kernel) == (os.getppid(), os.getsid(0), False)
    assert (stat.state, stat.start_ns, stat.arg_start) == (b"R", start_ns - TICK_NS + 1, arg_start)


@pytest.mark.parametrize("comm", [b"a) S 1 2 3 (", b"(b", b"x) (y", b") ", b"new\nline", b""])
def test_name_in_a_line(fake: FakeProc, comm: bytes) -> None:
    """It is all between the first and the last bracket."""
    fake.add(comm=comm)
    stat = parse_stat((fake.root / "9/stat").read_bytes())
    assert stat is not None
    assert (stat.comm, stat.parent) == (comm, 1004)


def test_nothing_stays_open(fake: FakeProc) -> None:
    """Asked often, whatever the answer."""
    fake.add()
    fake.add(10)
    (fake.root / "10/stat").write_bytes(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for pid in (9, 10, 11) * 20:
        fake.find(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reasons_are_whole_sentences_for_a_user() -> None:
    """Each says another thing, on one line."""
    assert len({missing.value for missing in Missing}) == len(Missing) == 3
    assert not any("\n" in missing.value for missing in Missing)

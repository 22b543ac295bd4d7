# SPDX-License-Identifier: MIT
"""The one process that holds a socket, quickly where that is sure, and never one of two."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pyegress.attribute import owners
from pyegress.attribute.census import Census
from pyegress.attribute.owners import AMBIGUOUS, FORBIDDEN, NOBODY, OTHER_NAMESPACE, Holder, Owners
from pyegress.attribute.procfs import TICK_NS
from tests.attribute.acting import Actor, acting, ending, needs_root
from tests.attribute.test_census import FakeHost

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36
SUBREAPER = """
reads, writes = os.pipe()
waits, goes = os.pipe()
middle = os.fork()
if middle == 0:
    os.read(waits, 1)
    one = socket.socket()
    first = os.fork()
    if first == 0:
        first = os.getpid()
        if os.fork() == 0:
            while os.getppid() == first:
                pass
            os.write(writes, b'%d %d' % (os.getpid(), os.fstat(one.fileno()).st_ino))
            signal.pause()
        os._exit(0)
    os.waitpid(first, 0)
    signal.pause()
"""
BROTHER = """
reads, writes = os.pipe()
waits, goes = os.pipe()
middle = os.fork()
if middle == 0:
    os.read(waits, 1)
    one = socket.socket()
    if ctypes.CDLL(None).syscall(56, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.write(writes, b'%d %d' % (os.getpid(), os.fstat(one.fileno()).st_ino))
    signal.pause()
"""
GO = "[os.write(goes, b'x'), *map(int, os.read(reads, 64).split())][1:]"
NONE = 1
"""An inode number that no socket has."""


def missed() -> str:
    """Why nobody is found to hold a socket: some processes may be closed even to root."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for file in folder.iterdir():
                file.readlink()
        except PermissionError:
            return FORBIDDEN
        except OSError:
            continue
    return NOBODY


MISSED = missed()


@contextmanager
def looking() -> Iterator[Owners]:
    """Owners of the host's sockets, with all rights."""
    made = Owners(lambda: True, lambda: None)
    yield made
    made.close()


def opened(actor: Actor, name: str = "one") -> int:
    """The number of a new socket of that process."""
    actor.do(f"{name} = socket.socket()")
    return int(actor.do(f"os.fstat({name}.fileno()).st_ino"))


def pid_of(found: Holder | str | None) -> int | str | None:
    """The holder's number, or what else is told."""
    return found.pid if isinstance(found, Holder) else found


def both(known: Owners, inode: int) -> tuple[int | str | None, int | str | None]:
    """What `find` and then `search` tell."""
    return pid_of(known.find(inode)), pid_of(known.search({inode: None})[inode])


class TestOneHolder:
    """The process is told."""

    def test_socket_from_before(self) -> None:
        """It was there at the start."""
        with acting() as actor:
            inode = opened(actor)
            with looking() as known:
                assert both(known, inode) == (actor.pid, actor.pid)

    def test_socket_of_a_known_process(self) -> None:
        """Made since by a process that was there."""
        with acting() as actor, looking() as known:
            for _ in range(3):
                inode = opened(actor)
                assert both(known, inode) == (actor.pid, actor.pid)

    def test_socket_of_a_new_process(self) -> None:
        """Both are new: its parent, who can be trusted to be that, has not got it."""
        with looking() as known, acting() as actor:
            inode = opened(actor)
            assert both(known, inode) == (actor.pid, actor.pid)

    def test_new_process_without_a_known_parent(self) -> None:
        """It may come from its elder brother and be an orphan: only a search is sure; then it is sure for good."""
        with acting(), looking() as known, acting(start_new_session=True) as actor:
            inode = opened(actor)
            assert both(known, inode) == (None, actor.pid)
            assert pid_of(known.find(inode)) == actor.pid

    def test_elder_brothers(self) -> None:
        """A parent of the same session is trusted to be that, also with more children than can be read."""
        with ExitStack() as stack:
            for _ in range(owners._BELOW + 1):
                stack.enter_context(acting())
            known = stack.enter_context(looking())
            actor = stack.enter_context(acting())
            inode = opened(actor)
            assert both(known, inode) == (actor.pid, actor.pid)

    def test_new_session(self) -> None:
        """Its parent is as good as any if it had no children before; otherwise a search is sure."""
        with looking() as known, acting(start_new_session=True) as actor:
            inode = opened(actor)
            quick, sure = both(known, inode)
            assert quick in (None, actor.pid)
            assert sure == actor.pid

    def test_double_forked_daemon(self) -> None:
        """Its parent has ended, and it has all of its grandparent's sockets; then only its own."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            with ending(actor.do("orphaned()")):
                assert both(known, inode)[1] == AMBIGUOUS
            assert both(known, opened(actor, "two")) == (actor.pid, actor.pid)

    def test_closed_by_the_parent(self) -> None:
        """The child has it alone by now."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            with ending(actor.do("forked()")) as child:
                actor.do("one.close()")
                assert both(known, inode) == (child, child)

    def test_closed_by_the_child(self) -> None:
        """The parent has it alone."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            with ending(actor.do("forked(one)")):
                assert both(known, inode) == (actor.pid, actor.pid)

    def test_duplicates_are_one(self) -> None:
        """One process with three descriptors for it."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            actor.do("more = [one.dup(), one.dup()]")
            assert both(known, inode) == (actor.pid, actor.pid)

    def test_same_descriptor_again(self) -> None:
        """A client that closes and connects gets the same number each time."""
        with acting() as actor, looking() as known:
            for _ in range(3):
                inode = opened(actor)
                found = known.find(inode)
                assert isinstance(found, Holder)
                assert (found.pid, known.holds(found, inode)) == (actor.pid, True)
                actor.do("one.close()")
                assert not known.holds(found, inode)

    def test_many_at_once(self) -> None:
        """One search for sockets of several processes."""
        with acting() as one, acting() as other, looking() as known:
            wanted = {
                opened(one): one.pid,
                opened(one, "two"): one.pid,
                opened(other): other.pid,
                NONE: MISSED,
            }
            found = known.search(dict.fromkeys(wanted, 0))
            assert {inode: pid_of(each) for inode, each in found.items()} == wanted

    def test_while_processes_are_born(self) -> None:
        """Short ones come and go meanwhile."""
        with acting() as actor, looking() as known:
            for _ in range(5):
                subprocess.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (:); done"], check=True)
                inode = opened(actor)
                assert both(known, inode) == (actor.pid, actor.pid)


class TestTwoHolders:
    """Neither is told."""

    @pytest.mark.parametrize("before", [True, False])
    def test_parent_and_child(self, before: bool) -> None:
        """Whether or not the parent was known before it made the socket."""
        if before:
            with acting() as actor, looking() as known:
                inode = opened(actor)
                with ending(actor.do("forked()")):
                    assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)
        else:
            with looking() as known, acting() as actor:
                inode = opened(actor)
                with ending(actor.do("forked()")):
                    assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)

    def test_parent_that_was_found_alone(self) -> None:
        """A child that came later has it too."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            assert both(known, inode) == (actor.pid, actor.pid)
            with ending(actor.do("forked()")):
                assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)
            assert both(known, inode) == (actor.pid, actor.pid)

    def test_from_before(self) -> None:
        """Both were there at the start."""
        with acting() as actor:
            inode = opened(actor)
            with ending(actor.do("forked()")), looking() as known:
                assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)

    def test_two_children(self) -> None:
        """The parent has closed it."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            with ending(actor.do("forked()")), ending(actor.do("forked()")):
                actor.do("one.close()")
                assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)

    def test_grandparent(self) -> None:
        """Neither its child nor that child's parent is new when the socket is looked for."""
        with looking() as known, acting() as actor:
            inode = opened(actor)
            with ending(actor.do("orphaned()")):
                assert both(known, inode)[1] == AMBIGUOUS

    def test_other_descriptor(self) -> None:
        """One of them has moved it since it was read."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            with ending(actor.do("forked()")):
                assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)
                actor.do("more = one.dup()")
                actor.do("one.close()")
                assert both(known, inode) == (AMBIGUOUS, AMBIGUOUS)

    def test_orphan_given_to_a_subreaper(self) -> None:
        """Who has it too is between the orphan and its new parent, in one session."""
        with looking() as known, acting() as actor:
            actor.do("import ctypes")
            assert actor.do(f"ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1)") == 0
            with ending(actor.do(f"exec({SUBREAPER!r}) or middle")):
                known.find(NONE)
                orphan, inode = actor.do(GO)
                with ending(orphan):
                    assert pid_of(known.find(inode)) in (None, AMBIGUOUS)
                    assert both(known, inode)[1] == AMBIGUOUS

    @pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of clone(2)")
    def test_brother(self) -> None:
        """A child that is its parent's brother (CLONE_PARENT)."""
        with looking() as known, acting() as actor:
            actor.do("import ctypes")
            with ending(actor.do(f"exec({BROTHER!r}) or middle")):
                known.find(NONE)
                brother, inode = actor.do(GO)
                with ending(brother):
                    assert pid_of(known.find(inode)) in (None, AMBIGUOUS)
                    assert both(known, inode)[1] == AMBIGUOUS


class TestNoHolder:
    """The reason is told."""

    def test_nobody(self) -> None:
        """That takes a search; for a while it is then known."""
        with looking() as known:
            assert both(known, NONE) == (None, MISSED)
            assert known.find(NONE) == MISSED

    def test_closed(self) -> None:
        """It was found before."""
        with acting() as actor, looking() as known:
            inode = opened(actor)
            assert pid_of(known.find(inode)) == actor.pid
            actor.do("one.close()")
            assert both(known, inode) == (None, MISSED)

    def test_ended(self) -> None:
        """With its process."""
        with looking() as known:
            with acting() as actor:
                inode = opened(actor)
                assert pid_of(known.find(inode)) == actor.pid
            assert both(known, inode) == (None, MISSED)

    def test_those_that_nobody_holds_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many as there are packets of them."""
        monkeypatch.setattr(owners, "_NOBODIES", 10)
        with looking() as known:
            known.search(dict.fromkeys(range(1, 50)))
            assert len(known._nobody) == 10

    @needs_root
    def test_of_another_user_without_rights(self) -> None:
        """It may be anyone's; the user is told of it. An own process is found all the same."""
        with acting() as other, acting("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") as own:
            foreign, inode = opened(other), opened(own)
            words = said(
                f"(FORBIDDEN, {own.pid})",
                f"found = known.search({{{foreign}: 0, {inode}: 65534}})\n"
                f"print((found[{foreign}], found[{inode}].pid), told > 0)",
                "os.setgroups([]); os.setgid(65534); os.setuid(65534)",
            )
        assert words == f"('{FORBIDDEN}', {own.pid}) True"

    @needs_root
    def test_hidden_processes(self) -> None:
        """With hidepid there is nothing to see that could be forbidden."""
        with acting() as other:
            inode = opened(other)
            mounted = (
                "unshare",
                "--mount",
                "sh",
                "-c",
                'mount -t proc -o hidepid=2 none /proc && exec "$@"',
                "sh",
            )
            code = f"print(known.search({{{inode}: 0}})[{inode}], told > 0)"
            became = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
            assert said("", code, became, *mounted) == f"{FORBIDDEN} True"
            assert said("", f"print(known.search({{{inode}: 0}})[{inode}].pid)", "", *mounted) == str(
                other.pid
            )

    @needs_root
    def test_process_outside_of_the_pid_namespace(self) -> None:
        """It isn't in our /proc."""
        with acting() as other:
            inode = opened(other)
            code = f"print(known.search({{{inode}: 0}})[{inode}])"
            inner = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
            assert said("", code, "", *inner) == OTHER_NAMESPACE

    @needs_root
    def test_process_inside_a_pid_namespace(self) -> None:
        """Its number is ours for it, and its init is nobody's known child."""
        with acting() as outer:
            outer.do("import subprocess")
            inner = (
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                sys.executable,
                "-c",
                "import os, socket, sys; one = socket.socket(); "
                "print(os.getpid(), os.fstat(one.fileno()).st_ino, flush=True); sys.stdin.read()",
            )
            with (
                subprocess.Popen(inner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
                looking() as known,
            ):
                assert process.stdout
                number, inode = map(int, process.stdout.readline().split())
                assert number == 1
                found = pid_of(known.search({inode: 0})[inode])
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                assert found == int(children)


def said(_: str, code: str, before: str, *command: str) -> str:
    """What a program of its own prints, after the statement `before`, of `known` and what it was `told`."""
    program = f"""
import os
from pyegress.attribute.owners import Owners
{before}
told = 0
def forbidden():
    global told
    told += 1
known = Owners(lambda: os.geteuid() == 0, forbidden)
{code}
"""
    done = subprocess.run(
        [*command, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_births_that_do_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there are processes that were not read, one of them may have it too."""
    host = FakeHost(tmp_path)
    host.add(100)
    census = Census(tmp_path, lambda: host.now_ns)
    known = Owners(lambda: True, lambda: None, None, tmp_path, census)
    look = census.look

    def births(thoroughly: bool = False) -> None:
        last = max(member.pid for member in census.members()) + 1
        host.now_ns += TICK_NS
        host.add(last, 7 if last == 102 else 8, start=host.now_ns // TICK_NS)
        host.count(last)
        look(thoroughly)

    monkeypatch.setattr(census, "look", births)
    assert known.search({7: 0})[7] == AMBIGUOUS


class TestBudget:
    """`find` does not read everything."""

    @pytest.fixture
    def host(self, tmp_path: Path) -> FakeHost:
        """With 20 processes of 10 sockets."""
        made = FakeHost(tmp_path)
        for pid in range(101, 121):
            made.add(pid, *range(pid * 100, pid * 100 + 10), start=pid)
        made.count(120)
        return made

    @staticmethod
    def owners_of(host: FakeHost, monkeypatch: pytest.MonkeyPatch, links: int) -> tuple[Owners, list[int]]:
        """Owners with that budget, and how much each reading read."""
        monkeypatch.setattr(owners, "QUICK_LINKS", links)
        read: list[int] = []
        census = Census(host.root, lambda: host.now_ns)
        known = Owners(lambda: True, lambda: None, None, host.root, census)
        original = census.scan

        def scan(*arguments: object, **named: object) -> object:
            found = original(*arguments, **named)  # type: ignore[arg-type]
            read.append(found.read)
            return found

        monkeypatch.setattr(census, "scan", scan)
        return known, read

    def test_known_socket(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is one look at one descriptor."""
        known, read = self.owners_of(host, monkeypatch, 50)
        assert pid_of(known.find(10303)) == 103
        assert read == []

    def test_new_processes_with_many(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is too much is left to a search, and then is known."""
        known, read = self.owners_of(host, monkeypatch, 50)
        for pid in range(121, 141):
            host.add(pid, *range(pid * 100, pid * 100 + 10))
        host.count(140)
        assert known.find(14001) is None
        assert sum(read) <= 50
        assert pid_of(known.search({14001: 0})[14001]) == 140
        read.clear()
        assert pid_of(known.find(14001)) == 140
        assert read == []

    def test_nobody_has_it(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """No more is read than the budget."""
        known, read = self.owners_of(host, monkeypatch, 15)
        for pid in range(101, 121):
            assert pid_of(known.find(pid * 100)) == pid
        assert known.find(NONE) is None
        assert sum(read) <= 15

    def test_likely_ones_first(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """A search ends with the process that has made it."""
        known, read = self.owners_of(host, monkeypatch, 0)
        host.open(120, 5)
        assert known.find(5) is None
        assert pid_of(known.search({5: 5})[5]) == 120
        assert len(read) < 20

    def test_recent_are_bounded(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest are forgotten."""
        monkeypatch.setattr(owners, "RECENT", 3)
        known, _ = self.owners_of(host, monkeypatch, 50)
        for pid in range(101, 121):
            known.find(pid * 100)
        assert [member.pid for member in known._recent] == [118, 119, 120]


@needs_root
def test_cgroup_tells_who_may_have_made_it(tmp_path: Path) -> None:
    """Where the parent is not to be trusted, those in the socket's cgroup are asked instead of everybody."""
    root = next(
        (path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if is_v2(path)), None
    )
    if root is None:
        pytest.skip("no cgroup v2 here")
    folder = root / f"pyegress-{os.getpid()}"
    folder.mkdir()
    try:
        with (
            acting(),
            closing(Owners(lambda: True, lambda: None, root)) as known,
            acting(
                "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh", start_new_session=True
            ) as actor,
        ):
            inode = opened(actor)
            cgroup_id = folder.stat().st_ino
            assert known.find(inode) is None
            assert pid_of(known.find(inode, cgroup_id)) == actor.pid
            with ending(actor.do("orphaned()")):
                assert known.find(inode, cgroup_id) == AMBIGUOUS
    finally:
        while (folder / "cgroup.procs").read_text():
            pass
        folder.rmdir()


def is_v2(path: Path) -> bool:
    """Whether cgroup v2 is mounted there."""
    return (path / "cgroup.controllers").exists()


def test_number_that_another_process_has_now(tmp_path: Path) -> None:
    """What the first one held is not the second one's."""
    host = FakeHost(tmp_path)
    host.add(100, 7)
    host.count(150)
    known = Owners(lambda: True, lambda: None, None, tmp_path, Census(tmp_path, lambda: host.now_ns))
    assert pid_of(known.find(7)) == 100
    host.end(100)
    host.add(100, 8, start=200)
    host.count(149)
    assert known.find(7) is None
    found = known.search({7: 0, 8: 0})
    assert (found[7], pid_of(found[8])) == (NOBODY, 100)
    assert isinstance(found[8], Holder)
    assert found[8].start_ns != 100


def test_no_descriptor_left(host_of_one: tuple[FakeHost, Owners], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no answer, and no error either; what was known then is still known."""
    host, known = host_of_one
    host.count(101)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", failing)
        assert known.find(7) is None
    host.add(101, 7, start=200)
    host.count(101)
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", failing)
        assert known.find(7) is None
    assert known.find(7) == AMBIGUOUS


def test_met_by_the_other_thread(
    host_of_one: tuple[FakeHost, Owners], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that was born after a look has what its parent made: it is not told to be the maker."""
    host, known = host_of_one
    original = Owners._hunt

    def hunt(self: Owners, inode: int, budget: owners._Budget) -> Holder | str | None:
        host.add(101, inode, start=200)
        host.count(101)
        self._census.look()
        return original(self, inode, budget)

    monkeypatch.setattr(Owners, "_hunt", hunt)
    assert known.find(8) is None


@pytest.fixture
def host_of_one(tmp_path: Path) -> tuple[FakeHost, Owners]:
    """A host with a process that has a socket."""
    host = FakeHost(tmp_path)
    host.add(100, 7)
    return host, Owners(lambda: True, lambda: None, None, tmp_path, Census(tmp_path, lambda: host.now_ns))


def failing(*_: object) -> int:
    """As where all descriptors are used."""
    raise OSError(errno.EMFILE, "too many open files")

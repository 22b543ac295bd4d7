# SPDX-License-Identifier: MIT
"""Whose connection it is, on real kernels by each kind of hook: CASES section E, and very short processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.record import Process
from tests import traffic
from tests.kernel.observing import Observed, Watch, child, held, made, observe

pytestmark = [pytest.mark.guest("6.1", "6.12"), pytest.mark.usefixtures("routes")]
all_kinds = pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
kinds = pytest.mark.parametrize("kind", ["fentry", "cgroup"])
"""A kprobe runs the same code as fentry from the process on; cgroup hooks have helpers of their own."""

V4, V6 = "192.0.2.1", "2001:db8::1"
STORM = 500


def process_of(seen: Observed) -> Process:
    """The process of the one connection there is."""
    (connection,) = seen
    assert connection.process is not None
    return connection.process


def lineage(process: Process) -> list[Process]:
    """Its ancestors, nearest first."""
    found = []
    while process.parent is not None:
        process = process.parent
        found.append(process)
    return found


@all_kinds
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_every_program_of_a_storm_is_known_whole(kind: str, protocol: str) -> None:
    """Static programs that make one call and end: name, path, arguments, user, parent and grandparent of each."""
    truth: dict[str, str] = {}

    def act() -> None:
        done = traffic.run("storm", str(traffic.short()), protocol, V4, 7, STORM, 0)
        truth.update(traffic.words(done.stdout))

    seen = observe(kind, act)
    of = {c.process.pid: c for c in seen if c.process and c.process.comm == "short"}
    pids = [int(pid) for pid in truth["pids"].split(",")]
    assert len(pids) == STORM and set(of) == set(pids)
    for number, pid in enumerate(pids):
        process = of[pid].process
        assert process is not None
        assert process.exe == str(traffic.short())
        assert process.cmdline == f"{traffic.short()} {protocol} {V4} 7 n={number}"
        assert (process.name, process.user, process.attribution) == ("short", "root", "kernel")
        parent, grandparent = lineage(process)[:2]
        assert (parent.pid, parent.name, parent.exe) == (int(truth["pid"]), "traffic", str(traffic.traffic()))
        assert grandparent.pid == os.getpid()
    assert not [key for key in seen.losses.snapshot() if key[0] in ("lost", "unattributed")]


@kinds
def test_command_line_is_the_processs_own(kind: str) -> None:
    """CASES 59: the same program twice, each with its own arguments."""
    for port in (7, 8):
        seen, _ = made(kind, "udp", V4, port, 1)
        assert process_of(seen).cmdline == f"{traffic.traffic()} udp {V4} {port} 1"


@kinds
def test_exec_after_a_connection_attaches_nothing_of_the_next_program(kind: str) -> None:
    """The datagram is the first program's, although the same process runs another one when it is looked at."""
    seen, _ = made(kind, "execafter", V4, 7, str(traffic.traffic()), "udp", V4, 8)
    (before,) = [c.process for c in seen if c.dest_port == 7]
    (after,) = [c.process for c in seen if c.dest_port == 8]
    assert before is not None and after is not None
    assert before.pid == after.pid and before.start_ns == after.start_ns
    assert before.cmdline is not None and "execafter" in before.cmdline
    assert after.cmdline == f"{traffic.traffic()} udp {V4} 8"


@kinds
def test_reused_pid_is_another_process(kind: str) -> None:
    """CASES 61: a new process gets the number of one that has just connected."""
    pids: list[int] = []

    def act() -> None:
        first = traffic.words(traffic.run("udp", V4, 7, 1).stdout)
        pids.append(int(first["pid"]))
        with traffic.held("cloneback", V4, 8, pids[0]) as (_, words):
            assert int(words["pid"]) == pids[0]

    seen = observe(kind, act).of(pids[0])
    first, second = (c.process for c in seen)
    assert first is not None and second is not None
    assert first.start_ns != second.start_ns
    assert first.cmdline == f"{traffic.traffic()} udp {V4} 7 1"
    assert second.cmdline is not None and "cloneback" in second.cmdline


@kinds
@pytest.mark.parametrize("name", [b"\xff\xfe", b") S 1 (", b"a\nb", "größe-größe-grö".encode()[:15]])
def test_odd_bytes_in_a_name(kind: str, name: bytes) -> None:
    """CASES 62: a name of any bytes is that name."""
    seen, _ = made(kind, "renamed", V4, 7, name.hex())
    assert process_of(seen).comm == name.decode("utf-8", "surrogateescape")


@kinds
def test_odd_bytes_in_arguments(kind: str) -> None:
    """CASES 62: arguments that are not UTF-8."""
    argument = b"\xc3 \x1b[31m\n".decode("utf-8", "surrogateescape")
    seen, _ = held(kind, "proctitle", V4, 7, argument)
    assert process_of(seen).cmdline == argument


@kinds
def test_title_longer_than_the_arguments_were(kind: str) -> None:
    """setproctitle(3) goes on into the environment; the whole title is the command line."""
    title = "traffic: " + "a longer title " * 8
    seen, _ = held(kind, "proctitle", V4, 7, title)
    assert process_of(seen).cmdline == title


@kinds
def test_thread_name_is_an_extra(kind: str) -> None:
    """The process's name is its main thread's."""
    seen, truth = made(kind, "renamedthread", V4, 7, b"worker".hex())
    (connection,) = seen
    assert (process_of(seen).name, connection.thread) == ("traffic", "worker")
    assert (connection.tid, process_of(seen).pid) == (int(truth["tid"]), int(truth["pid"]))


@kinds
def test_main_thread_that_has_ended(kind: str) -> None:
    """The program is still known by the thread that goes on."""
    seen, _ = made(kind, "leadergone", V4, 7)
    process = process_of(seen)
    assert process.exe == str(traffic.traffic())
    assert process.cmdline == f"{traffic.traffic()} leadergone {V4} 7"


@kinds
def test_user_changes_while_the_program_runs(kind: str) -> None:
    """Who drops rights is reported with those it has at each call."""
    seen, _ = made(kind, "setuid", V4, 7, 65534)
    assert [(c.dest_port, c.process.uid) for c in seen if c.process] == [(7, 0), (8, 65534)]


DROPS_RIGHTS = f"""
import os, socket
made = [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6) for kind in (1, 2)]
os.fchown(made[1].fileno(), 1234, -1)
os.setgid(65534)
os.setuid(65534)
made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
for port, one in enumerate(made, 7):
    one.connect_ex(({V4!r} if one.family == socket.AF_INET else {V6!r}, port))
    if one.type == socket.SOCK_DGRAM:
        one.send(b"")
"""
FIREWALL = """
table inet test {
    set owners { type uid . inet_service; flags dynamic; }
    chain out { type filter hook output priority 0; th dport 7-11 update @owners { meta skuid . th dport }; }
}
"""


@pytest.mark.guest("5.10")
@all_kinds
def test_owner_of_a_socket_is_what_firewalls_compare(kind: str) -> None:
    """A socket stays its maker's when the process drops rights, even if it is given away; nft is the judge."""
    subprocess.run(["nft", "-f", "-"], input=FIREWALL, text=True, check=True)
    try:
        seen = child(kind, sys.executable, "-c", DROPS_RIGHTS)
        listed = subprocess.run(
            ["nft", "-j", "-n", "list", "set", "inet", "test", "owners"], capture_output=True, check=True
        )
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "test"], check=True)
    owners = {7: 0, 8: 0, 9: 0, 10: 0, 11: 65534}
    assert {c.dest_port: c.socket_uid for c in seen} == owners
    assert [c.process.uid for c in seen if c.process] == [65534] * 5
    (elements,) = [each["set"]["elem"] for each in json.loads(listed.stdout)["nftables"] if "set" in each]
    assert {port: uid for uid, port in (each["concat"] for each in elements)} == owners


@kinds
def test_arguments_that_are_not_in_memory_come_from_proc(kind: str) -> None:
    """Where the kernel would have to wait for a page, /proc tells, and the record says so."""
    with Watch(kind) as watch, traffic.held("argsout", V4, 7, "paged out") as (_, words):
        process = process_of(watch.wait_for(int(words["pid"])))
    assert process.cmdline == "argsout paged out"
    assert process.attribution == "proc"


@kinds
def test_arguments_that_are_not_in_memory_of_a_process_that_ended(kind: str) -> None:
    """Nothing is guessed: unknown, with the reason, and counted."""
    seen, _ = held(kind, "argsout", V4, 7, "paged out")
    process = process_of(seen)
    assert process.cmdline is None
    assert process.attribution == "kernel: without arguments or path, the process was gone"
    assert seen.losses.snapshot()["unattributed", process.attribution] == 1


@kinds
def test_long_arguments_are_cut_and_marked(kind: str) -> None:
    """4 KiB of them are kept."""
    process = process_of(child(kind, traffic.short(), "udp", V4, "7", "x" * 5000))
    assert process.cmdline is not None and process.cmdline_cut
    assert len(process.cmdline) == 4096
    assert process.cmdline.startswith(f"{traffic.short()} udp {V4} 7 xxx")


@kinds
def test_arguments_of_some_length_are_whole(kind: str) -> None:
    """Those too long for the small record take the large one."""
    process = process_of(child(kind, traffic.short(), "udp", V4, "7", "y" * 2000))
    assert process.cmdline == f"{traffic.short()} udp {V4} 7 {'y' * 2000}"
    assert not process.cmdline_cut


@kinds
def test_script_beside_its_interpreter(kind: str, tmp_path: Path) -> None:
    """A script run by its name: the interpreter is the program, the script an extra."""
    script = tmp_path / "a script with a long name.py"
    script.write_text(
        f"#!{sys.executable} -u\nimport socket\nsocket.socket(type=2).sendto(b'', ('{V4}', 7))\n"
    )
    script.chmod(0o755)
    process = process_of(child(kind, script))
    assert (process.script, process.name) == (str(script), script.name)
    assert process.exe == os.path.realpath(sys.executable)


@kinds
def test_deleted_program_keeps_its_path(kind: str) -> None:
    """CASES 66: without ` (deleted)`, in a folder that is new each time."""
    seen, truth = held(kind, "deleted", V4, 7)
    assert process_of(seen).exe == truth["path"]
    assert not Path(truth["path"]).exists()


@kinds
def test_deleted_program_matches_a_glob(kind: str) -> None:
    """CASES 66: the random part of a folder is no obstacle to a filter."""

    def act() -> None:
        with traffic.held("deleted", V4, 7):
            pass

    seen = observe(kind, act, ignore_exe=("*/.mount_*/app",))
    assert not [c for c in seen if c.dest_ip == V4]
    assert seen.losses.snapshot()["skipped", "by ignore-exe:*/.mount_*/app"] == 1


@kinds
def test_program_without_a_file(kind: str) -> None:
    """A program run from memory has the name it was given there."""
    seen, _ = made(kind, "memfdexec", str(traffic.short()), "short", "udp", V4, 7)
    process = process_of(seen)
    assert (process.exe, process.cmdline) == ("/memfd:payload", f"short udp {V4} 7")


@kinds
def test_path_over_mount_points(kind: str, tmp_path: Path) -> None:
    """The path is the one that a user of the mount namespace knows, through two mounts."""
    outer = tmp_path / "outer"
    outer.mkdir()
    inner = outer / "inner"
    subprocess.run(["mount", "-t", "tmpfs", "none", outer], check=True)
    try:
        inner.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
        program = inner / "program"
        program.write_bytes(traffic.short().read_bytes())
        program.chmod(0o755)
        assert process_of(child(kind, program, "udp", V4, "7")).exe == str(program)
    finally:
        subprocess.run(["umount", "-R", outer], check=True)


@kinds
def test_eight_ancestors(kind: str) -> None:
    """The chain ends after eight, each with its name and path."""
    truth: dict[str, str] = {}
    seen = observe(kind, lambda: truth.update(traffic.words(traffic.run("forkdeep", V4, 7, 10).stdout)))
    pids = [int(pid) for pid in truth["pids"].split(",")]
    above = lineage(process_of(seen.of(pids[-1])))
    assert [p.pid for p in above] == pids[-2:-10:-1]
    assert {p.exe for p in above} == {str(traffic.traffic())}
    assert all(p.name and p.name.startswith("level") for p in above)


@kinds
def test_every_level_of_a_deep_chain_has_its_ancestors(kind: str, tmp_path: Path) -> None:
    """Who was the last of eight ancestors to be told is told with its own when another child of it connects."""
    script = tmp_path / "deeper"
    script.write_text(
        f"[ $1 -eq 0 ] || sh {script} $(($1 - 1))\n{traffic.short()} udp {V4} $((100 + $1)); true\n"
    )
    seen = observe(kind, lambda: subprocess.run(["sh", script, "12"], check=True))
    found = {c.dest_port: c.process for c in seen if c.process and c.process.comm == "short"}
    assert list(found) == list(range(100, 113))
    shells = {port: process.parent.pid for port, process in found.items() if process.parent}
    for port, process in found.items():
        above = [p.pid for p in lineage(process)]
        expected = [shells[upper] for upper in range(port or 0, 113)][:8]
        assert above[: len(expected)] == expected
        assert len(above) == 8 or lineage(process)[-1].pid == 1


@kinds
def test_parent_that_runs_another_program(kind: str) -> None:
    """A parent is what it was when the child was first seen; a later child has the later program as parent."""
    code = (
        "import os, subprocess, sys\n"
        "subprocess.run([sys.argv[1], 'udp', sys.argv[2], '7'])\n"
        "os.execv('/bin/sh', ['sh', '-c', '\"$0\" udp \"$1\" 8; true', sys.argv[1], sys.argv[2]])\n"
    )

    def act() -> None:
        subprocess.run([sys.executable, "-c", code, str(traffic.short()), V4], check=True)

    seen = [c for c in observe(kind, act) if c.process and c.process.comm == "short"]
    first, second = (c.process.parent for c in seen if c.process)
    assert first is not None and second is not None
    assert first.pid == second.pid
    assert first.exe == os.path.realpath(sys.executable)
    assert second.exe == os.path.realpath("/bin/sh")


@kinds
def test_process_in_another_pid_namespace(kind: str) -> None:
    """CASES 64: the number is the one that pyegress's own namespace has for it."""
    seen, truth = made(kind, "inns", V4, 7)
    process = process_of(seen)
    assert process.pid == int(truth["pid"])
    assert process.pidns != Path("/proc/self/ns/pid").stat().st_ino
    assert process.cmdline == f"{traffic.traffic()} inns {V4} 7"

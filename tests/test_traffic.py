# SPDX-License-Identifier: MIT
"""What the traffic program says of its processes is what they are, and what they say they sent arrives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_run_command import ISOLATED
from tests.traffic import NOT_OFFERED, TrafficError, held, run, short, traffic, volley, words

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HERE = "127.0.0.1"
CLOSED = 45000
NOBODY = 65534


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    """A socket that takes the datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
        taker.bind((HERE, 0))
        taker.settimeout(10)
        yield taker


def port_of(taker: socket.socket) -> int:
    """Where to send to."""
    return int(taker.getsockname()[1])


def senders(taker: socket.socket, count: int) -> list[int]:
    """The ports that datagrams came from, which are all there are."""
    ports = []
    for _ in range(count):
        payload, (_, port) = taker.recvfrom(16)
        assert payload == b"x"
        ports.append(port)
    taker.setblocking(False)
    with pytest.raises(BlockingIOError):
        taker.recv(16)
    return ports


def proc(process: subprocess.Popen[str], name: str) -> bytes:
    """What the kernel shows of a process."""
    return Path(f"/proc/{process.pid}/{name}").read_bytes()


def ask(process: subprocess.Popen[str], line: str = "\n") -> dict[str, str]:
    """What a process that holds prints for a line."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    return words(process.stdout.readline())


def status(program: Path, *args: str | int) -> int:
    """How a program ends that prints nothing."""
    done = subprocess.run([program, *map(str, args)], capture_output=True, timeout=10, check=False)
    assert not done.stdout and not done.stderr
    return done.returncode


def test_short_sends_one_datagram(receiver: socket.socket) -> None:
    """Whatever else its command line says."""
    assert status(short(), "udp", HERE, port_of(receiver), "n=1", "x" * 1000) == 0
    assert len(senders(receiver, 1)) == 1


def test_short_starts_one_connect() -> None:
    """To a port that listens it is made, and to one that does not it is refused: neither is a failure."""
    with socket.create_server((HERE, 0)) as server:
        server.settimeout(10)
        assert status(short(), "tcp", HERE, port_of(server)) == 0
        server.accept()[0].close()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert status(short(), "tcp", HERE, CLOSED) == 0


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("udp", "255.255.255.255", CLOSED), 1),  # a broadcast that was not asked for
        (("tcp", "255.255.255.255", CLOSED), 1),
        (("sctp", HERE, CLOSED), 2),
        (("udp", "::1", CLOSED), 2),
        (("udp", HERE, 65536), 2),
        (("udp", HERE), 2),
        ((), 2),
    ],
    ids=str,
)
def test_short_says_that_it_failed(args: tuple[str | int, ...], expected: int) -> None:
    """Its status is all that it says."""
    assert status(short(), *args) == expected


VOLLEY_TAKEN = """
import socket, subprocess, sys
takers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for taker in takers:
    taker.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
    taker.bind(("0.0.0.0", 0))
    taker.setblocking(False)
ports = [str(taker.getsockname()[1]) for taker in takers]
subprocess.run([sys.argv[1], "65534", "5", *ports, "3"], check=True)
for taker in takers:
    while True:
        try:
            payload, ((_, _, packet_info),) , *_ = taker.recvmsg(16, 64)
        except BlockingIOError:
            break
        print(len(payload), socket.inet_ntoa(packet_info[8:]), end=";")
    print()
"""


@needs_root
def test_volley_sends_to_two_ports() -> None:
    """Empty datagrams with numbers from 65,534 on, which goes round the addresses; each third to the other port."""
    words = [*ISOLATED, sys.executable, "-c", VOLLEY_TAKEN, str(volley())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0 198.18.255.254;0 198.18.0.0;0 198.18.0.1;\n0 198.18.255.255;0 198.18.0.2;\n"


@pytest.mark.parametrize(
    ("args", "expected"),
    [((0, 1, CLOSED, CLOSED), 2), ((0, 0, CLOSED, CLOSED, 10), 2), ((0, 1, 65536, CLOSED, 10), 2), ((), 2)],
    ids=str,
)
def test_volley_says_that_it_failed(args: tuple[int, ...], expected: int) -> None:
    """Its status is all that it says."""
    assert status(volley(), *args) == expected


def test_storm_sends_from_as_many_processes(receiver: socket.socket) -> None:
    """Fifty children, each with one datagram and a PID of its own."""
    first, second = run("storm", str(short()), "udp", HERE, port_of(receiver), 50, 0).stdout.splitlines()
    truth, pids = words(first), words(second)["pids"].split(",")
    assert (truth["sent"], truth["failed"], len(set(pids))) == ("50", "0", 50)
    assert truth["pid"] not in pids
    assert len(senders(receiver, 50)) == 50


def test_storm_keeps_its_rate_and_order(tmp_path: Path) -> None:
    """The children get the arguments that tell them apart, in the order of the printed PIDs."""
    program, log = tmp_path / "child", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$$ $0 $*" >> {log}\n')
    program.chmod(0o755)
    start = time.monotonic()
    first, second = run("storm", str(program), "tcp", HERE, CLOSED, 5, 50).stdout.splitlines()
    assert time.monotonic() - start >= 4 / 50
    pids = words(second)["pids"].split(",")
    assert words(first)["failed"] == "0"
    assert sorted(log.read_text().splitlines(), key=lambda line: line[-1]) == [
        f"{pid} {program} tcp {HERE} {CLOSED} n={i}" for i, pid in enumerate(pids)
    ]


@pytest.mark.parametrize(("program", "started"), [("/bin/false", True), ("/nonexistent", False)])
def test_storm_counts_failures(program: str, started: bool) -> None:
    """Of children, and of programs that cannot be started, which have no PID."""
    first, second = run("storm", program, "udp", HERE, CLOSED, 3, 0).stdout.splitlines()
    truth = words(first)
    assert (truth["sent"], truth["failed"], truth["calls"]) == ("0", "3", "3")
    assert [pid != "0" for pid in words(second)["pids"].split(",")] == [started] * 3


def test_execafter_becomes_another_program(receiver: socket.socket) -> None:
    """The one that sent is gone, and its PID is not."""
    first, second = run(
        "execafter", HERE, port_of(receiver), "/bin/sh", "-c", "echo $$ $0", "zero"
    ).stdout.splitlines()
    truth = words(first)
    assert second == f"{truth['pid']} zero"
    assert senders(receiver, 1) == [int(truth["sports"])]


def test_memfdexec_runs_a_file_without_a_name(receiver: socket.socket) -> None:
    """The arguments are the given ones, from the name of the program on."""
    with held("memfdexec", str(traffic()), "fake", "hold", HERE, port_of(receiver)) as (process, truth):
        assert process.stdout is not None
        inner = words(process.stdout.readline())
        assert truth["pid"] == inner["pid"] == str(process.pid)
        assert (truth["sent"], inner["sent"]) == ("0", "1")
        assert Path(f"/proc/{process.pid}/exe").readlink() == Path("/memfd:payload (deleted)")
        assert proc(process, "cmdline").split(b"\0")[:2] == [b"fake", b"hold"]
    assert senders(receiver, 1) == [int(inner["sports"])]


def test_hold_sends_for_every_line(receiver: socket.socket) -> None:
    """From the same socket, until there is no more to read."""
    with held("hold", HERE, port_of(receiver)) as (process, truth):
        assert (truth["pid"], truth["sent"]) == (str(process.pid), "1")
        assert [ask(process)["sent"], ask(process, "again\n")["sent"]] == ["2", "3"]
    assert senders(receiver, 3) == [int(truth["sports"])] * 3


def test_hold_ends_by_its_alarm() -> None:
    """Nothing is left behind where nobody ends it."""
    with pytest.raises(TrafficError, match="exited with 1"), held("hold", HERE, CLOSED) as (process, _):
        process.send_signal(signal.SIGALRM)
        process.wait(timeout=10)


def test_deleted_runs_a_program_that_is_gone(receiver: socket.socket) -> None:
    """It is deleted by the time of the datagram, and its folder too."""
    with held("deleted", HERE, port_of(receiver)) as (process, truth):
        path = Path(truth["path"])
        assert (truth["pid"], truth["comm"], path.name) == (str(process.pid), "app", "app")
        assert Path(f"/proc/{process.pid}/exe").readlink() == Path(f"{path} (deleted)")
        assert not path.parent.exists()
    assert senders(receiver, 1) == [int(truth["sports"])]


def test_proctitle_goes_on_into_the_environment(receiver: socket.socket) -> None:
    """The title is longer than the arguments that it replaces."""
    title = "worker: of a pool that has a rather long name, " + "x" * 100
    with held("proctitle", HERE, port_of(receiver), title) as (process, truth):
        assert (truth["pid"], truth["title"]) == (str(process.pid), str(len(title)))
        assert int(truth["area"]) < len(title)
        assert proc(process, "cmdline").rstrip(b"\0") == title.encode()
        assert proc(process, "environ").rstrip(b"\0") == title[int(truth["area"]) :].encode()
    assert senders(receiver, 1) == [int(truth["sports"])]


def test_proctitle_fits_the_arguments() -> None:
    """A short title is followed by as many NULs as the arguments had room."""
    with held("proctitle", HERE, CLOSED, "short") as (process, truth):
        assert proc(process, "cmdline") == b"short".ljust(int(truth["area"]), b"\0")


@pytest.mark.parametrize("text", ["a text", "", "x" * 5000], ids=len)
def test_argsout_has_arguments_out_of_memory(receiver: socket.socket, text: str) -> None:
    """They are not all there for who must not wait, and there for who reads them in /proc."""
    try:
        with held("argsout", HERE, port_of(receiver), text) as (process, truth):
            assert (truth["pid"], truth["resident"]) == (str(process.pid), "0")
            assert proc(process, "cmdline") == f"argsout\0{text}\0".encode()
    except TrafficError as error:
        if error.status != NOT_OFFERED:
            raise
        pytest.skip(str(error))
    assert senders(receiver, 1) == [int(truth["sports"])]


def test_renamed_sends_to_consecutive_ports() -> None:
    """The name is any bytes."""
    truth = words(run("renamed", HERE, CLOSED, "61200aff5c22", 3).stdout)
    assert (truth["comm"], truth["sent"]) == (r'a\x20\x0a\xff\x5c"', "3")
    assert truth["pid"] == truth["tid"]


@pytest.mark.parametrize("name", ["6", "6g", "61" * 16])
def test_renamed_refuses_what_is_no_name(name: str) -> None:
    """Half a byte, no hex, and more than the kernel keeps."""
    with pytest.raises(TrafficError, match="is not the hex of at most 15 bytes"):
        run("renamed", HERE, CLOSED, name)


def test_renamedthread_sends_from_a_second_thread(receiver: socket.socket) -> None:
    """Only that one has the name."""
    truth = words(run("renamedthread", HERE, port_of(receiver), "576562").stdout)
    assert truth["comm"] == "Web"
    assert truth["tid"] != truth["pid"]
    assert senders(receiver, 1) == [int(truth["sports"])]


def test_leadergone_sends_without_its_first_thread(receiver: socket.socket) -> None:
    """It is a zombie by then."""
    truth = words(run("leadergone", HERE, port_of(receiver)).stdout)
    assert truth["leader"] == "Z"
    assert truth["tid"] != truth["pid"]
    assert senders(receiver, 1) == [int(truth["sports"])]


@needs_root
def test_setuid_sends_before_and_after() -> None:
    """To two ports."""
    truth = words(run("setuid", HERE, CLOSED, NOBODY).stdout)
    assert (truth["sent"], truth["uid"], truth["gid"]) == ("2", str(NOBODY), str(NOBODY))


@needs_root
def test_cloneback_gets_the_pid_that_it_wants(receiver: socket.socket) -> None:
    """Tried in a PID namespace, whose PIDs are nobody else's; the parent is its first process."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(traffic())]
    done = subprocess.run(
        [*command, "cloneback", HERE, str(port_of(receiver)), "4321"],
        capture_output=True,
        text=True,
        input="\n",
        timeout=30,
        check=False,
    )
    if done.returncode == NOT_OFFERED:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    first, second = map(words, done.stdout.splitlines())
    assert (first["pid"], second["sent"]) == ("4321", "2")
    assert senders(receiver, 2) == [int(first["sports"])] * 2


@needs_root
def test_inns_prints_the_pid_outside(receiver: socket.socket) -> None:
    """The process is the first one in its namespace; it is the traffic program's child out here."""
    truth = words(run("inns", HERE, port_of(receiver), 2).stdout)
    assert int(truth["pid"]) > 1
    assert truth["pid"] != truth["tid"]
    assert truth["sent"] == "2"
    assert len(set(senders(receiver, 2))) == 1


def test_forkdeep_sends_from_the_end_of_a_chain(receiver: socket.socket) -> None:
    """The top is the first of as many processes and one more."""
    truth = words(run("forkdeep", HERE, port_of(receiver), 20).stdout)
    pids = truth["pids"].split(",")
    assert len(set(pids)) == len(pids) == 21
    assert (pids[0], truth["comm"], truth["sent"]) == (truth["pid"], "level0", "1")
    assert len(senders(receiver, 1)) == 1

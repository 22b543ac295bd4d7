# SPDX-License-Identifier: MIT
"""`pyegress run` as a service: the files of deploy/, the rights that are left, what its manager hears."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.privileges import READING, WRITING, Capability

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy/systemd/pyegress.service"
LOGROTATE = ROOT / "deploy/logrotate/pyegress"
PATIENCE_S = 60
PORT = 25000 + os.getpid() % 30000
EBPF = (
    "-i",
    "ebpf",
    "-I",
    "ebpf:attach:cgroup",
    "-I",
    "ebpf:allow-loopback:true",
    "-I",
    f"ebpf:only-port:{PORT}",
)
SENDER = (
    "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', int(sys.argv[1])))"
)
LOOKING = READING | {Capability.SYS_PTRACE}
NOBODY = 65534

STEADY = """
import sys
from queue import Empty, SimpleQueue
sys.path.insert(0, {root!r})
from pyegress import cli, registry
from pyegress.plugin import Input, Options
from pyegress.record import Connection

class Steady(Input):
    name, summary, Options = "ebpf", "steady", Options
    waits = True
    def __init__(self, options): self.queue = SimpleQueue()
    def open(self, context): pass
    def close(self): pass
    def stop(self): self.queue.put(None)
    def read(self):
        number = 1
        while True:
            yield [Connection(number + at, "ebpf", "tcp", 4, "192.0.2.1", 443) for at in range(10)]
            number += 10
            try:
                return self.queue.get(timeout=0.001)
            except Empty:
                pass

registry.INPUTS["ebpf"] = "__main__:Steady"
cli.main()
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


@contextmanager
def running(*words: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A program whose inputs observe."""
    ready, writing = os.pipe()
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        [*words, "--ready-fd", str(writing)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[writing],
        **settings,
    )
    os.close(writing)
    try:
        started = os.read(ready, 100)
        os.close(ready)
        assert started == b"ready\n", process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> str:
    """What it said, after a normal stop."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


def audit(log: Path, *words: str) -> tuple[str, ...]:
    """The command line of one by eBPF."""
    return (sys.executable, "-m", "pyegress", "run", *EBPF, "-o", "json", "-O", f"json:file:{log}", *words)


def send() -> None:
    """One datagram to this host."""
    subprocess.run([sys.executable, "-c", SENDER, str(PORT)], check=True, timeout=PATIENCE_S)


def rights(process: subprocess.Popen[str]) -> dict[str, dict[str, str]]:
    """What each thread has, by its number."""
    found = {}
    for folder in Path(f"/proc/{process.pid}/task").iterdir():
        pairs = (line.partition(":\t") for line in (folder / "status").read_text().splitlines())
        status = {name: value for name, _, value in pairs}
        found[folder.name] = {
            name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
        }
    return found


def mask(capabilities: frozenset[Capability]) -> str:
    """As /proc shows it."""
    return f"{sum(1 << number for number in capabilities):016x}"


def has(capabilities: frozenset[Capability]) -> dict[str, str]:
    """What a thread has that kept these of root's."""
    left, none = mask(capabilities), "0" * 16
    return {"CapInh": none, "CapPrm": left, "CapEff": left, "CapBnd": left, "CapAmb": none, "NoNewPrivs": "1"}


@needs_root
def test_no_thread_of_an_audit_has_more_than_it_needs(tmp_path: Path) -> None:
    """One may look into /proc; the others may read. It works all the same, to its end and over a SIGHUP."""
    log = tmp_path / "log"
    with running(*audit(log, "--debug")) as process:
        threads = list(rights(process).values())
        assert threads.count(has(LOOKING)) == 1
        assert threads.count(has(READING)) == len(threads) - 1 >= 3
        send()
        said = ended(process)
    assert "debug: ebpf: gave up " in said and "left: CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE\n" in said
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["process"]["exe"] == str(Path(sys.executable).resolve())
    assert log.stat().st_mode & 0o777 == 0o640


@needs_root
def test_what_was_given_up_is_said_to_those_who_ask_only(tmp_path: Path) -> None:
    """Not without --debug."""
    with running(*audit(tmp_path / "log")) as process:
        assert "gave up" not in ended(process)


@needs_root
def test_files_in_a_folder_of_another_user(tmp_path: Path) -> None:
    """What it takes to write there is kept: a file is made anew at SIGHUP, and rules at the end."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    os.chown(folder, NOBODY, NOBODY)
    log, rules = folder / "log", folder / "rules"
    with running(*audit(log, "-o", "nftables", "-O", f"nftables:file:{rules}")) as process:
        assert has(READING | WRITING) in rights(process).values()
        log.rename(folder / "old")
        process.send_signal(signal.SIGHUP)
        send()
        while not log.exists():
            assert process.poll() is None
        ended(process)
    assert rules.stat().st_mode & 0o777 == 0o640


@needs_root
def test_as_another_user(tmp_path: Path) -> None:
    """Every thread is, once hooks are attached; files are that user's, and are reopened where it may write."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    log, old = folder / "log", folder / "old"
    groups = sorted(os.getgrouplist("nobody", pwd.getpwnam("nobody").pw_gid))
    with running(*audit(log, "--user", "nobody")) as process:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            status = (task / "status").read_text()
            for name in "Uid", "Gid":
                assert f"{name}:" + f"\t{NOBODY}" * 4 + "\n" in status
            assert f"Groups:\t{' '.join(map(str, groups))} \n" in status
        threads = list(rights(process).values())
        assert threads.count(has(LOOKING)) == 1
        assert threads.count(has(READING)) == len(threads) - 1 >= 3
        log.rename(old)
        process.send_signal(signal.SIGHUP)
        while not log.exists():
            assert process.poll() is None
        assert log.stat().st_uid == NOBODY
        os.chown(folder, 0, 0)
        log.unlink()
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        while "cannot open " not in (line := process.stderr.readline()):
            assert line
        assert f"cannot open {log}: Permission denied (EACCES)" in line
        handles = Path(f"/proc/{process.pid}/fd").iterdir()
        (handle,) = (each for each in handles if str(each.readlink()) == f"{log} (deleted)")
        send()
        while not (written := handle.read_text()).endswith("\n"):
            assert process.poll() is None
        assert json.loads(written)["process"]["exe"] == str(Path(sys.executable).resolve())
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


@needs_root
@pytest.mark.parametrize(
    ("before", "user", "told", "code"),
    [
        ((), "nobdy", "--user nobdy: no such user; did you mean 'nobody'?", 2),
        (
            ("setpriv", f"--reuid={NOBODY}"),
            "root",
            "--user root: Operation not permitted; needs CAP_SETUID",
            1,
        ),
        ((), "nobody", "cannot open {log}: Permission denied (EACCES)", 1),
    ],
)
def test_user_that_it_cant_be(tmp_path: Path, before: Sequence[str], user: str, told: str, code: int) -> None:
    """Said in one line before anything is observed, as is a file that this user may not write."""
    log = tmp_path / "log"
    done = subprocess.run(
        [*before, *audit(log, "--user", user)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert done.stderr.startswith(f"pyegress: {told.format(log=log)}")


@needs_root
@pytest.mark.parametrize("lacking", ["", "sys_ptrace"])
def test_without_root(tmp_path: Path, lacking: str) -> None:
    """Ambient capabilities are enough, and those of them that attached it are gone; programs are named all the same."""
    names = [
        name for name in ("bpf", "perfmon", "net_admin", "sys_ptrace", "dac_read_search") if name != lacking
    ]
    given = ",".join(["-all", *(f"+{name}" for name in names)])
    before = (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        f"--bounding-set={given}",
    )
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o755)
    log = Path(f"/dev/shm/pyegress-test-{os.getpid()}")
    log.touch()
    os.chown(log, NOBODY, NOBODY)
    try:
        with running(*before, f"--inh-caps={given}", f"--ambient-caps={given}", *audit(log)) as process:
            left = {each["CapPrm"] for each in rights(process).values()}
            assert left == {mask(READING), mask(READING if lacking else LOOKING)}
            assert {each["CapAmb"] for each in rights(process).values()} == {"0" * 16}
            send()
            ended(process)
        (line,) = log.read_text().splitlines()
        assert json.loads(line)["process"]["exe"] == str(Path(sys.executable).resolve())
    finally:
        log.unlink()


@needs_root
def test_without_what_it_takes_to_attach(tmp_path: Path) -> None:
    """What is missing is named."""
    given = "-all,+bpf,+perfmon"
    before = (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        f"--bounding-set={given}",
    )
    done = subprocess.run(
        [*before, f"--inh-caps={given}", f"--ambient-caps={given}", *audit(Path("/dev/null"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert "missing CAP_NET_ADMIN" in done.stderr


class Manager:
    """The socket that a service manager listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind(str(path))

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def wait_for(self, wanted: str) -> str:
        """The datagram that begins with that."""
        while not (heard := self._socket.recv(4096).decode()).startswith(wanted):
            pass
        return heard


def test_manager_hears_of_it_all(tmp_path: Path) -> None:
    """That it observes, lives, reads its files again, and ends."""
    manager = Manager(tmp_path / "notify")
    script = tmp_path / "steady.py"
    script.write_text(STEADY.format(root=str(ROOT)))
    environment = {**os.environ, "NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "300000"}
    words = (sys.executable, str(script), "run", "-i", "ebpf", "-o", "json", "-O", "json:file:/dev/null")
    with running(*words, env=environment) as process:
        assert re.fullmatch(r"READY=1\nSTATUS=\d+ connections", manager.wait_for("READY=1"))
        manager.wait_for("WATCHDOG=1\nSTATUS=")
        process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1\nMONOTONIC_USEC=")
        manager.wait_for("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        process.communicate(timeout=PATIENCE_S)
    manager.close()


UNITS = sorted(UNIT.parent.glob("*.service"))


def unit(folder: Path, shipped: Path = UNIT) -> Path:
    """The unit, of the program that is here."""
    program = folder / "pyegress"
    program.symlink_to("/bin/true")
    made = folder / shipped.name
    made.write_text(shipped.read_text().replace("/usr/local/bin/pyegress", str(program)))
    timer = shipped.with_suffix(".timer")
    if timer.exists():
        made.with_suffix(".timer").write_text(timer.read_text())
    return made


@needs_systemd
@pytest.mark.parametrize("shipped", UNITS, ids=lambda path: path.name)
def test_unit_is_well_formed(shipped: Path, tmp_path: Path) -> None:
    """systemd has nothing to say about it, nor about its timer."""
    made = unit(tmp_path, shipped)
    timers = map(str, tmp_path.glob("*.timer"))
    words = ["systemd-analyze", "verify", "--man=no", str(made), *timers]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("shipped", UNITS, ids=lambda path: path.name)
def test_unit_is_hardened(shipped: Path, tmp_path: Path) -> None:
    """systemd's own score of it is under 3."""
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=29", str(unit(tmp_path, shipped))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "Overall exposure level" in done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="no logrotate")
def test_nothing_is_lost_over_rotations(tmp_path: Path) -> None:
    """Each connection is in one of the logs, once; each file is readable by owner and group alone."""
    script, log = tmp_path / "steady.py", tmp_path / "egress.log"
    script.write_text(STEADY.format(root=str(ROOT)))
    config, programs = tmp_path / "logrotate.conf", tmp_path / "bin"
    config.write_text(LOGROTATE.read_text().replace("/var/log/pyegress/", f"{tmp_path}/"))
    config.chmod(0o644)
    programs.mkdir()
    words = (sys.executable, str(script), "run", "-i", "ebpf", "-o", "json", "-O", f"json:file:{log}")
    with running(*words) as process:
        # In place of systemd, which is not at work where this is tested.
        systemctl = programs / "systemctl"
        systemctl.write_text(f'#!/bin/sh\ntest "$1 $3" = "kill --signal=HUP" && kill -HUP {process.pid}\n')
        systemctl.chmod(0o755)
        for _ in range(4):
            subprocess.run(
                ["logrotate", "--force", "--state", str(tmp_path / "state"), str(config)],
                env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
                check=True,
                timeout=PATIENCE_S,
            )
            while not (log.exists() and log.stat().st_size):
                assert process.poll() is None
        said = ended(process)
    files = sorted(tmp_path.glob("egress.log*"))
    assert [file.name for file in files] == [
        "egress.log",
        "egress.log.1",
        *(f"egress.log.{n}.gz" for n in (2, 3, 4)),
    ]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}
    stamps = []
    for file in files:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        stamps += [json.loads(line)["ts"] for line in data.splitlines()]
    assert len(stamps) == len(set(stamps))
    assert f"pyegress: {len(stamps)} connections\n" in said

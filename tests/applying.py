# SPDX-License-Identifier: MIT
"""`pyegress apply` at work in the test's own network namespace, and files for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyegress.apply.part import Part
from pyegress.errors import EgressError
from tests.netns import run

PATIENCE_S = 60
QUESTION = "or run pyegress apply --keep in a new connection"

NFT = """\
# rules for nft
table inet pyegress
delete table inet pyegress
table inet pyegress {{
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "lo" ip daddr 198.18.0.1 udp dport {port} counter drop
  }}
}}
"""
RESTORE = """\
# rules for iptables-restore
*filter
:PYEGRESS - [0:0]
-A PYEGRESS -d {address} -p udp -m udp --dport {port} -m comment --comment "a\\"b" -j DROP
-A OUTPUT -j PYEGRESS
COMMIT
"""
ADDRESS = {4: "198.18.0.1/32", 6: "2001:db8::1/128"}


def nft_file(folder: Path, port: int = 9) -> Path:
    """One that drops UDP to 198.18.0.1."""
    path = folder / f"{port}.nft"
    path.write_text(NFT.format(port=port))
    return path


def restore_files(folder: Path, port: int = 9) -> list[Path]:
    """The pair."""
    paths = [folder / f"{port}.v{family}" for family in (4, 6)]
    for family, path in zip((4, 6), paths, strict=True):
        path.write_text(RESTORE.format(address=ADDRESS[family], port=port))
    return paths


def state() -> str:
    """All that is loaded here, ours and others', with counters; of both backends."""
    saved = (run(f"{program}-save -c") for program in ("iptables-legacy", "ip6tables-legacy"))
    lines = "".join(saved).splitlines(keepends=True)
    return run("nft list ruleset") + "".join(line for line in lines if not line.startswith("#"))


def load_users_rules() -> None:
    """What its user has in nft and in iptables, some of it with names that look like ours."""
    run(
        "nft 'table inet mine { chain c { type filter hook output priority 5; counter; }; }; table ip pyegress { }'"
    )
    for tables in ("iptables", "ip6tables"):
        run(f"{tables} -N MINE && {tables} -A MINE -j RETURN")
        run(f"{tables} -A OUTPUT -p tcp --dport 5 -j MINE && {tables} -A OUTPUT -p tcp --dport 6 -j DROP")


def backend_path(folder: Path, backend: str) -> str:
    """A PATH where iptables is the one of that backend."""
    programs = folder / backend
    programs.mkdir()
    for tables in ("iptables", "ip6tables"):
        for ending in ("", "-save", "-restore"):
            (programs / f"{tables}{ending}").symlink_to(f"/usr/sbin/xtables-{backend}-multi")
    return f"{programs}:{os.environ['PATH']}"


def may_send(port: int = 9) -> bool:
    """Whether a datagram to 198.18.0.1 leaves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"x", ("198.18.0.1", port))
        except PermissionError:
            return False
    return True


def await_end(pid: int) -> None:
    """Of a process, whoever its parent is."""
    ended = os.pidfd_open(pid)
    try:
        assert select.select([ended], [], [], PATIENCE_S)[0]
    finally:
        os.close(ended)


def command(*arguments: str | int | Path) -> list[str]:
    """The words that run it."""
    return [sys.executable, "-m", "pyegress", "apply", *map(str, arguments)]


def apply(
    *arguments: str | int | Path, text: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; nothing on stdout, never a traceback."""
    done = subprocess.run(
        command(*arguments),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, **(env or {})},
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    return done


class Waiting:
    """One that has loaded its rules and waits for the answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            self.said.append(line)
            if QUESTION in line:
                return
        raise AssertionError(f"ended with {process.wait()}: {self.said}")

    @property
    def watchdog(self) -> int:
        """Its pid."""
        return watchdog_of(self.process.pid)

    def answer(self, text: str) -> None:
        """On its standard input, which stays open."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Wait for its end; exit status and what it said last."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said


@contextmanager
def waiting(*arguments: str | int | Path, confirm: int = 1000) -> Iterator[Waiting]:
    """Rules on trial, for so long that a test's own end comes first."""
    with subprocess.Popen(
        command("--confirm", confirm, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Waiting(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_S)


def watchdog_of(pid: int) -> int:
    """The one child while rules are loaded or on trial."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


class FakePart(Part):
    """Not in the kernel; it notes what is asked of it, and fails as often as told."""

    def __init__(self, what: str = "fake", failures: int = 0) -> None:
        super().__init__(what, b"")
        self.what = what
        self.failures = failures
        self.done: list[str] = []

    def check(self) -> None:
        self.done.append("check")

    def remember(self) -> None:
        self.done.append("remember")

    def load(self) -> None:
        self.done.append("load")

    def take_back(self) -> str:
        self.done.append("take back")
        if self.failures:
            self.failures -= 1
            raise EgressError("busy")
        return f"{self.what} as before"

    def remove(self) -> str | None:
        self.done.append("remove")
        return self.what

    def size(self) -> str:
        return "1 rule"

# SPDX-License-Identifier: MIT
"""Network namespaces held by a process, with routes into nothing, and pyegress at work inside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LOCAL_4, LOCAL_6 = "192.0.2.7", "2001:db8::7"
FAR_4, FAR_6 = "198.51.100.9", "2001:db8:1::9"
"""Addresses that are routed into a device which swallows all packets."""
PATIENCE_S = 60
CLIENT = Path(__file__).with_name("client.py")
# A packet that goes into one end of a veth comes out of the other, where nobody wants it.
LAYOUT = f"""
set -e
ip link set lo up
ip link add swallow type veth peer name swallowed
ip link set swallow arp off
ip address add {LOCAL_4}/24 dev swallow
ip -6 address add {LOCAL_6}/64 dev swallow nodad
ip link set swallowed up
ip link set swallow up
ip route add 198.51.100.0/24 dev swallow
ip -6 route add 2001:db8:1::/48 dev swallow
echo ready
exec sleep infinity
"""


_OPTIONS = {"net": "--net", "mnt": "--mount"}
"""Of unshare and nsenter, by their names in /proc."""


class Done(NamedTuple):
    """What a run of pyegress came to."""

    code: int
    out: list[str]
    err: list[str]


class Audit:
    """pyegress at work; `done` is set when it has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.done = Done(-1, [], [])

    def stop(self, number: int = signal.SIGINT) -> Done:
        """End it by a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Done:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        self.done = Done(self.process.returncode, out.splitlines(), err.splitlines())
        return self.done


class Island:
    """A network namespace, there as long as its holder lives, and others beside it where wanted."""

    def __init__(self, layout: str = LAYOUT, kinds: Sequence[str] = ("net",)) -> None:
        self._kinds = kinds
        unshared = [_OPTIONS[kind] for kind in kinds]
        self._holder = subprocess.Popen(
            ["unshare", *unshared, "sh", "-c", layout],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(self._holder.stderr.read())
        self.pid = self._holder.pid

    def close(self) -> None:
        """End it."""
        self._holder.kill()
        self._holder.wait()
        for pipe in (self._holder.stdout, self._holder.stderr):
            assert pipe is not None
            pipe.close()

    def inside(self, *command: str | int | Path) -> list[str]:
        """The command line that runs a command inside."""
        entered = [f"{_OPTIONS[kind]}=/proc/{self.pid}/ns/{kind}" for kind in self._kinds]
        return ["nsenter", *entered, f"--wd={Path.cwd()}", *map(str, command)]

    def run(self, *command: str | int | Path, text: str | None = None) -> str:
        """Run a command inside, and return its stdout."""
        done = subprocess.run(
            self.inside(*command), input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, code: str, *arguments: str | int) -> str:
        """Run Python code inside, and return its stdout."""
        return self.run(sys.executable, "-c", code, *arguments)

    @contextmanager
    def client(self, name: str, *words: str | int) -> Iterator[int]:
        """client.py inside, once it has sent everything: its pid; it ends with the block."""
        command = self.inside(sys.executable, CLIENT, name, *words)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield int(process.stdout.readline())

    @contextmanager
    def audit(self, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Audit]:
        """pyegress inside, once it observes; it is stopped with the block."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "pyegress", "run", "--ready-fd", str(writing), *arguments]
        process = subprocess.Popen(
            self.inside(*command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(writing,),
            env={**os.environ, **(env or {})},
        )
        os.close(writing)
        audit = Audit(process)
        with os.fdopen(reading) as ready:
            said = ready.read()
        try:
            assert said == "ready\n", process.communicate(timeout=PATIENCE_S)[1]
            yield audit
        finally:
            if audit.done.code == -1:
                audit.stop()


def fields(lines: Sequence[str]) -> list[dict[str, str]]:
    """logfmt lines of plain values, taken apart."""
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


@contextmanager
def island() -> Iterator[Island]:
    """A namespace that ends with the block."""
    made = Island()
    try:
        yield made
    finally:
        made.close()

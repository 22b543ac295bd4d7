# SPDX-License-Identifier: MIT
"""Processes that do as they are told, one statement at a time, and network namespaces to put them in."""

from __future__ import annotations

import ast
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Thread
from typing import Any, TypeVar

import pytest

from pyegress.attribute.sockets import MAPPED, Query

T = TypeVar("T")
_numbers = count()
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_ACTOR = r"""
import os, signal, socket, sys
def forked(*closed):
    'A child that has all that we have but these.'
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        for one in closed:
            one.close()
        os.write(writes, b'.')
        while True:
            signal.pause()
    os.read(reads, 1)
    os.close(reads)
    os.close(writes)
    return pid
def orphaned():
    'A grandchild that has all that we have, and lost its parent.'
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid()
            os.write(writes, b'%d' % os.getpid())
            while True:
                signal.pause()
        os._exit(0)
    os.waitpid(pid, 0)
    inner = int(os.read(reads, 16))
    os.close(reads)
    os.close(writes)
    return inner
names = globals()
for line in sys.stdin:
    statement = line.encode().decode('unicode_escape')
    try:
        value = eval(statement, names)
    except SyntaxError:
        value = exec(statement, names)
    print(ascii(value), flush=True)
"""


class Actor:
    """A Python process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = self.do("os.getpid()")

    def do(self, statement: str) -> Any:
        """What the expression is in that process; a statement is just run."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(ascii(statement)[1:-1].replace("\n", "\\n") + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the actor died of {statement}"
        return ast.literal_eval(line)


@contextmanager
def acting(*command: str, **settings: Any) -> Iterator[Actor]:
    """An actor, started by that command; what it forked ends with it."""
    with subprocess.Popen(
        [*command, sys.executable, "-c", _ACTOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **settings,
    ) as process:
        actor = Actor(process)
        try:
            yield actor
        finally:
            process.kill()


@contextmanager
def ending(pid: int) -> Iterator[int]:
    """A process that an actor forked, ended with the block."""
    handle = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
        os.close(handle)


@contextmanager
def namespace(*addresses: str) -> Iterator[str]:
    """A network namespace with these addresses on its loopback; its name."""
    name = f"pyegress-{os.getpid()}-{next(_numbers)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        ip(name, "link set lo up")
        for address in addresses:
            ip(name, f"address add {address} dev lo nodad")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def ip(name: str, command: str) -> None:
    """Run ip(8) for a namespace."""
    subprocess.run(["ip", "-n", name, *command.split()], check=True, capture_output=True)


def inside(name: str, act: Callable[[], T]) -> T:
    """What a function gives in a thread that is in a namespace."""
    from pyroute2 import netns

    found: list[T] = []

    def work() -> None:
        netns.setns(name)
        found.append(act())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def packed(address: str) -> bytes:
    """As in a Query."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return MAPPED + socket.inet_aton(address)


def query(protocol: int, src: tuple[Any, ...], dst: tuple[Any, ...], **more: Any) -> Query:
    """A packet between two socket addresses."""
    version = 6 if ":" in src[0].removeprefix("::ffff:") else 4
    one, other = (packed(end[0].removeprefix("::ffff:")) for end in (src, dst))
    return Query(version, protocol, one, other, src[1], dst[1], **more)


def tcp(src: tuple[Any, ...], dst: tuple[Any, ...], **more: Any) -> Query:
    """The same of TCP."""
    return query(socket.IPPROTO_TCP, src, dst, **more)


def udp(src: tuple[Any, ...], dst: tuple[Any, ...], **more: Any) -> Query:
    """The same of UDP."""
    return query(socket.IPPROTO_UDP, src, dst, **more)

# SPDX-License-Identifier: MIT
"""Families of processes that share, hand over, move and close sockets; each says who has the last one."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import random
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

HOST = "127.0.0.1"
_libc = ctypes.CDLL(None, use_errno=True)


class Scene:
    """What happens in one family of processes, which end when the stage lets go of `curtain`."""

    def __init__(self, port: int, curtain: int, chance: random.Random) -> None:
        self.chance = chance
        self._port = port
        self.curtain = curtain
        self._packet = mmap.mmap(-1, 64)
        self.two: socket.socket | None = None
        self.one = self._opened()
        self._sent()

    def _opened(self) -> socket.socket:
        if self.chance.random() < 0.5:
            return socket.create_connection((HOST, self._port))
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if self.chance.random() < 0.5:
            made.connect((HOST, 9))
        made.sendto(b"x", (HOST, 10))
        return made

    def reopen(self) -> None:
        """Another socket instead, of either kind."""
        self.use(self._opened())

    @property
    def packet(self) -> str:
        """Protocol, own port and the other one of what the last socket sent, whoever of us made it."""
        return self._packet[:].rstrip(b"\0").decode()

    def use(self, made: socket.socket) -> None:
        """Another socket instead."""
        self.one.close()
        self.one = made
        self._sent()

    def _sent(self) -> None:
        kind = self.one.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        sport = self.one.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            told = f"{socket.IPPROTO_TCP} {sport} {self.one.getpeername()[1]}"
        else:
            told = f"{socket.IPPROTO_UDP} {sport} 10"
        self._packet[:] = told.encode().ljust(64, b"\0")

    def wait(self) -> None:
        """Until the curtain falls."""
        while os.read(self.curtain, 1):
            pass
        os._exit(0)

    def forked(self, act: Callable[[], object] = lambda: None, fork: Callable[[], int] = os.fork) -> int:
        """A child that does that and waits; what `act` gives is the number that is told of it, if it gives one."""
        reads, writes = os.pipe()
        pid = fork()
        if pid == 0:
            try:
                os.close(reads)
                told = act()
                os.write(writes, b"%d" % (told if isinstance(told, int) else os.getpid()))
                os.close(writes)
                self.wait()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writes)
        told = int(os.read(reads, 16))
        os.close(reads)
        return told

    def ended(self, act: Callable[[], int]) -> int:
        """The same in a child that ends then: what `act` gives."""
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writes, b"%d" % act())
            os._exit(0)
        os.waitpid(pid, 0)
        told = int(os.read(reads, 16))
        os.close(reads)
        os.close(writes)
        return told


def alone(scene: Scene) -> list[int]:
    """One process."""
    return [os.getpid()]


def alone_again(scene: Scene) -> list[int]:
    """With another socket after a child came and went."""
    scene.ended(lambda: 0)
    scene.reopen()
    return [os.getpid()]


def child(scene: Scene) -> list[int]:
    """The child makes it."""
    return [scene.forked(scene.reopen)]


def shared(scene: Scene) -> list[int]:
    """Parent and child."""
    return [os.getpid(), scene.forked()]


def closed_by_child(scene: Scene) -> list[int]:
    """The parent's again."""
    scene.forked(scene.one.close)
    return [os.getpid()]


def closed_by_parent(scene: Scene) -> list[int]:
    """The child's."""
    pid = scene.forked()
    scene.one.close()
    return [pid]


def moved(scene: Scene) -> list[int]:
    """To another descriptor, by the only one that has it."""
    _move(scene)
    return [os.getpid()]


def moved_by_child(scene: Scene) -> list[int]:
    """Shared, under another number there."""
    return [os.getpid(), scene.forked(lambda: _move(scene))]


def _move(scene: Scene) -> None:
    fd = scene.one.detach()
    to = scene.chance.choice([0, 1, 50, 99])
    os.dup2(fd, to)
    os.close(fd)
    scene.one = socket.socket(fileno=to)


def daemon(scene: Scene) -> list[int]:
    """A grandchild with a lost parent; it or the grandparent may have closed it."""

    def inner() -> None:
        if scene.chance.random() < 0.5:
            os.setsid()

    pid = scene.ended(lambda: scene.forked(inner))
    if scene.chance.random() < 0.5:
        scene.one.close()
        return [pid]
    return [os.getpid(), pid]


def program(scene: Scene) -> list[int]:
    """Another program in the same process."""
    reads, writes = os.pipe()
    os.set_inheritable(writes, True)
    os.set_inheritable(scene.one.fileno(), True)
    os.set_inheritable(scene.curtain, True)

    def run() -> None:
        code = f"echo $$ >&{writes}; exec {writes}>&-; exec cat <&{scene.curtain} >/dev/null"
        os.execv("/bin/sh", ["/bin/sh", "-c", code])

    pid = os.fork()
    if pid == 0:
        scene.reopen()
        os.set_inheritable(scene.one.fileno(), True)
        run()
    assert int(os.read(reads, 16)) == pid
    return [pid]


def spawned(scene: Scene) -> list[int]:
    """A program that was started by posix_spawn with our socket, or without it."""
    keeps = scene.chance.random() < 0.5
    reads, writes = os.pipe()
    for fd in (writes, scene.curtain):
        os.set_inheritable(fd, True)
    os.set_inheritable(scene.one.fileno(), keeps)
    code = f"echo $$ >&{writes}; exec {writes}>&-; exec cat <&{scene.curtain} >/dev/null"
    pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", code], os.environ)
    os.read(reads, 16)
    return [os.getpid(), *([pid] if keeps else [])]


def thread(scene: Scene) -> list[int]:
    """Of a thread's making."""
    work = threading.Thread(target=scene.reopen)
    work.start()
    work.join()
    return [os.getpid()]


def without_leader(scene: Scene) -> list[int]:
    """The main thread has ended before the others."""
    keeps = scene.chance.random() < 0.5

    def leave() -> None:
        ready = threading.Event()
        main = os.getpid()

        def stay() -> None:
            while Path(f"/proc/{main}/fd/{scene.one.fileno()}").exists():
                pass
            ready.set()
            os.write(done, b"x")
            scene.wait()

        threading.Thread(target=stay).start()
        _libc.pthread_exit(None)

    reads, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        leave()
    os.read(reads, 1)
    if not keeps:
        scene.one.close()
    return [pid, *([os.getpid()] if keeps else [])]


def port_of_two(scene: Scene) -> list[int]:
    """Two sockets of a UDP port, of one process or of two."""
    scene.use(_bound(0))
    port = scene.one.getsockname()[1]
    if scene.chance.random() < 0.5:
        scene.two = _bound(port)
        return [os.getpid()]

    def other() -> None:
        scene.one.close()
        scene.one = _bound(port)

    return [os.getpid(), scene.forked(other)]


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((HOST, port))
    made.sendto(b"x", (HOST, 10))
    return made


def handed_over(scene: Scene) -> list[int]:
    """To a child that was there before, and closed."""
    ours, theirs = socket.socketpair()
    reads, writes = os.pipe()

    def take() -> None:
        scene.one.close()
        os.write(writes, b"x")
        fds = array.array("i")
        _, more, _, _ = theirs.recvmsg(1, socket.CMSG_LEN(4))
        fds.frombytes(more[0][2])
        scene.one = socket.socket(fileno=fds[0])

    reads_pid, writes_pid = os.pipe()
    pid = os.fork()
    if pid == 0:
        take()
        os.write(writes_pid, b"x")
        scene.wait()
    os.read(reads, 1)
    scene.reopen()
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [scene.one.fileno()]))])
    os.read(reads_pid, 1)
    scene.one.close()
    return [pid]


def closed(scene: Scene) -> list[int]:
    """By nobody any more."""
    scene.ended(lambda: 0)
    scene.one.close()
    return []


SCENES: dict[str, Callable[[Scene], list[int]]] = {
    one.__name__: one
    for one in (
        alone,
        alone_again,
        child,
        shared,
        closed_by_child,
        closed_by_parent,
        moved,
        moved_by_child,
        daemon,
        program,
        spawned,
        thread,
        without_leader,
        port_of_two,
        handed_over,
        closed,
    )
}

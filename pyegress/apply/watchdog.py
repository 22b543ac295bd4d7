# SPDX-License-Identifier: MIT
"""A process of its own that loads the rules and takes them back unless it is told in time to keep them.

It has its own session and no terminal, so that neither ctrl-c nor a connection that hangs or breaks reaches it. Only
it loads, keeps and takes back, one after the other, so that whatever happens to the foreground has one outcome.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import syslog
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from pyegress.apply import meeting
from pyegress.apply.part import Part
from pyegress.errors import EgressError
from pyegress.escape import display

LOADED = b"loaded"
KEEP = meeting.KEEP
KEPT = meeting.KEPT
BACK = b"back "
"""From the foreground with the reason, to the foreground with what was done; either is one message."""
FAILED = b"failed "

_TRIES = 5
_MESSAGE_BYTES = 4096


class Watchdog(NamedTuple):
    """The foreground's hold on it."""

    pid: int
    control: socket.socket
    """At its end when the watchdog, and what it has started, has ended."""


def started(parts: Sequence[Part], seconds: int, listener: socket.socket) -> Watchdog:
    """Begin to load; parts must be checked and remembered."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Forked, not run anew: what it needs is in its memory, whatever becomes of files.
    pid = os.fork()
    if pid == 0:
        _in_the_child(parts, seconds, theirs.detach(), listener.detach())
    theirs.close()
    return Watchdog(pid, ours)


def taken_back(parts: Sequence[Part]) -> tuple[str, bool]:
    """Put all back, last first; says what there is now, and whether that is free of the new rules."""
    said, fine = [], True
    for part in reversed(parts):
        try:
            said.append(_put_back(part))
        except Exception as error:
            fine = False
            said.append(f"{part.what} could NOT be taken back ({_words(error)})")
    return ", ".join(said), fine


def _put_back(part: Part) -> str:
    for _ in range(_TRIES):
        try:
            return part.take_back()
        except Exception as error:  # Whatever it is: the rules must not stay.
            cause = _words(error)
        time.sleep(1)  # Somebody else may hold the lock, or change the same table.
    part.remove()
    return f"{part.what} removed, because it could not be put back as it was before ({cause})"


def _in_the_child(parts: Sequence[Part], seconds: int, control_fd: int, listener_fd: int) -> NoReturn:
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        _let_go(control_fd, listener_fd)
        # A child that loads holds this end open too: the foreground must not act before that child has ended.
        os.set_inheritable(control_fd, True)
        control, listener = socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd)
        syslog.openlog("pyegress", syslog.LOG_PID, syslog.LOG_DAEMON)
        _watch(parts, seconds, control, listener)
    finally:
        os._exit(0)


def _let_go(*kept: int) -> None:
    """Of all descriptors but these."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd > 2 and fd not in kept:
            with suppress(OSError):
                os.close(fd)
    os.chdir("/")


def _watch(parts: Sequence[Part], seconds: int, control: socket.socket, listener: socket.socket) -> None:
    terminated, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)
    names = ", ".join(part.what for part in parts)
    try:
        for part in parts:
            part.load()
    except Exception as error:
        said, _ = taken_back(parts)
        _log(syslog.LOG_ERR, f"could not load {names}; {said}")
        _send(control, FAILED + f"{_words(error)}; taken back: {said}".encode())
        return
    _send(control, LOADED)
    wait = _Wait(control, listener, terminated)
    try:
        reason = wait.outcome(seconds)
    except Exception as error:
        reason = _words(error)
    if reason is None:
        _log(syslog.LOG_NOTICE, f"rules kept: {names}")
        _send(control, KEPT)
        wait.answer()
        return
    said, fine = taken_back(parts)
    _log(syslog.LOG_WARNING if fine else syslog.LOG_CRIT, f"rules taken back: {reason}; {said}")
    _send(control, BACK + f"{reason}; {said}".encode())


class _Wait:
    """For the foreground, another session, SIGTERM or the time."""

    def __init__(self, control: socket.socket, listener: socket.socket, terminated: int) -> None:
        self._control = control
        self._listener = listener
        self._terminated = terminated
        self._clients: dict[int, socket.socket] = {}
        self._keeper: socket.socket | None = None
        self._poll = select.poll()
        for fd in (control.fileno(), listener.fileno(), terminated):
            self._poll.register(fd, select.POLLIN)

    def outcome(self, seconds: int) -> str | None:
        """None to keep, or why not."""
        end = time.monotonic() + seconds if seconds else None
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return f"no answer within {seconds} s"
            for fd, _ in self._poll.poll(None if left is None else left * 1000 + 1):
                if fd == self._terminated:
                    return "SIGTERM"
                if fd == self._control.fileno():
                    return self._told()
                if fd == self._listener.fileno():
                    self._meet()
                elif self._is_keeper(fd):
                    return None

    def answer(self) -> None:
        """Tell the session that said it."""
        if self._keeper is not None:
            _send(self._keeper, KEPT)

    def close(self) -> None:
        """Let go of those that have connected."""
        for client in (*self._clients.values(), *([self._keeper] if self._keeper else ())):
            client.close()

    def _told(self) -> str | None:
        try:
            word = self._control.recv(_MESSAGE_BYTES)
        except OSError:
            word = b""
        if word == KEEP:
            return None
        return word.removeprefix(BACK).decode() or "pyegress was killed"

    def _meet(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            if meeting.is_trusted(client):
                client.setblocking(False)
                self._clients[client.fileno()] = client
                self._poll.register(client.fileno(), select.POLLIN)
            else:
                client.close()

    def _is_keeper(self, fd: int) -> bool:
        client = self._clients.pop(fd)
        self._poll.unregister(fd)
        with suppress(OSError):
            if client.recv(_MESSAGE_BYTES) == KEEP:
                self._keeper = client
                return True
        client.close()
        return False


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, EgressError) else display(f"{type(error).__name__}: {error}")


def _send(to: socket.socket, message: bytes) -> None:
    """Nobody may be there to hear it, and a message that doesn't fit is cut rather than lost."""
    with suppress(OSError):
        to.send(message[:_MESSAGE_BYTES])


def _log(level: int, text: str) -> None:
    with suppress(Exception):
        syslog.syslog(level, text)

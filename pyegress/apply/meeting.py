# SPDX-License-Identifier: MIT
"""Where one `apply` at a time waits for its answer, and where another session gives it.

An abstract Unix socket belongs to a network namespace as the rules do, goes away with its processes, and tells who is
at its other end.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress

from pyegress.errors import EgressError, UsageError

KEEP = b"keep"
KEPT = b"kept"
_ADDRESS = "\0pyegress-apply"
_ANSWER_S = 60
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


def occupied() -> socket.socket:
    """The listening socket, which nobody else can have while it is open."""
    listener = _socket()
    try:
        listener.bind(_ADDRESS)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        stranger = _stranger()
        if stranger is not None:
            pid, uid = stranger
            raise EgressError(
                f"apply: process {pid} of user {uid} holds the place where `pyegress apply` waits; end it first"
            ) from None
        raise EgressError(
            "apply: another `pyegress apply` waits for its answer here; "
            "keep its rules with pyegress apply --keep, or wait until it has taken them back"
        ) from None
    listener.setblocking(False)
    return listener


def is_trusted(peer: socket.socket) -> bool:
    """Whether the other end is root's or this user's."""
    return _peer(peer)[1] in (0, os.geteuid())


def keep() -> None:
    """Answer the `apply` that waits; returns only when its rules are kept for good."""
    with _socket() as meeting:
        meeting.settimeout(_ANSWER_S)
        try:
            meeting.connect(_ADDRESS)
        except OSError:
            raise EgressError(
                "apply --keep: no `pyegress apply` waits in this network namespace; "
                "if there was one, its rules were taken back"
            ) from None
        if not is_trusted(meeting):
            raise UsageError(
                "apply --keep: the `pyegress apply` that waits is another user's; run it as root"
            )
        try:
            meeting.send(KEEP)
            answer = meeting.recv(64)
        except OSError:
            answer = b""
        if answer != KEPT:
            raise EgressError("apply --keep: too late, or not allowed: the rules are not kept")


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _peer(of: socket.socket) -> tuple[int, int]:
    """pid and uid of the other end."""
    data = of.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _stranger() -> tuple[int, int] | None:
    """Who listens, if that is no `apply` of root or this user."""
    with _socket() as probe, suppress(OSError):
        probe.settimeout(1)
        probe.connect(_ADDRESS)
        if not is_trusted(probe):
            return _peer(probe)
    return None

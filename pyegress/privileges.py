# SPDX-License-Identifier: MIT
"""Rights that are given up for good: capabilities(7) of a thread and of those that it starts, and new ones by exec.

No library: those for capset(2) are unmaintained, or change one thread behind the back of the others.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterable
from enum import IntEnum
from pathlib import Path

from pyegress import users
from pyegress.users import User

_CAPABILITY_VERSION_3 = 0x2008_0522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
"""Numbers of linux/capability.h and linux/prctl.h."""


class Capability(IntEnum):
    """Those that anything here can need; bit numbers of linux/capability.h."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


READING = frozenset({Capability.DAC_READ_SEARCH})
"""Files that are read again at SIGHUP may belong to anybody."""
LOOKING = READING | {Capability.SYS_PTRACE}
"""Other users' programs and sockets in /proc, and names of their containers."""
WRITING = frozenset({Capability.DAC_OVERRIDE, Capability.FOWNER})
"""Files in folders of other users."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop(kept: Collection[int], user: User | None = None) -> int:
    """Have this thread, and those that it starts, keep no other capabilities; returns how many it gave up.

    They go on as that user. Without CAP_SETPCAP the bounding set stays, of which nothing can be had any more.
    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
    _check(libc.capget(ctypes.byref(header), sets))
    for number in range(64):
        is_bound = libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(number))
        if is_bound < 0:
            break  # the kernel knows no more of them
        if is_bound and number not in kept:
            libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number))
    if user is not None:  # only now: what is given up above takes capabilities that are effective
        users.become(user)
    given_up = 0
    for word, part in enumerate(sets):
        mask = sum(1 << number % 32 for number in kept if number // 32 == word)
        given_up += (part.permitted & ~mask).bit_count()
        part.permitted &= mask
        part.effective &= mask
        part.inheritable = 0  # nothing is executed from here on; this takes the ambient ones with it
    _check(libc.capset(ctypes.byref(header), sets))
    return given_up


def are_ours(paths: Iterable[str]) -> bool:
    """Whether each file can be made, replaced and appended to by its owner's rights alone."""
    return all(_is_ours(Path(path)) for path in paths)


def _is_ours(path: Path) -> bool:
    own, above = os.geteuid(), path.resolve().parent
    while not above.exists():  # it will be made
        above = above.parent
    try:
        if path.exists() and not (path.stat().st_uid == own and path.stat().st_mode & 0o200):
            return False
        folder = above.stat()
    except OSError:
        return False
    return folder.st_uid == own and folder.st_mode & 0o300 == 0o300


def _check(code: int) -> None:
    if code < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

# SPDX-License-Identifier: MIT
"""The user that a thread goes on as: users and groups of the host, and setuid(2) of one thread.

No library, and not Python's os: these change all threads at once, and those of inputs are still to open things.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
from typing import NamedTuple

from pyegress.errors import UsageError, nearest

_PR_SET_KEEPCAPS = 8
"""Number of linux/prctl.h."""


class _Calls(NamedTuple):
    setgroups: int
    setresuid: int
    setresgid: int


_GENERIC = _Calls(159, 147, 149)
_CALLS = {"x86_64": _Calls(116, 117, 119), "aarch64": _GENERIC, "riscv64": _GENERIC, "loongarch64": _GENERIC}
"""Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""
_Group = ctypes.c_uint32


class User(NamedTuple):
    """One of the host's, with all groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def named(name: str) -> User:
    """The user of that name; UsageError where there is none."""
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):  # the latter for a NUL
        known = [each.pw_name for each in pwd.getpwall()]
        raise UsageError(f"no such user; {nearest(name, known)}") from None
    return User(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def become(user: User) -> None:
    """Have this thread, and those that it starts, be of that user for good, with the permitted capabilities it has.

    None is effective then. Without root, that user's threads stay as they are, and others' raise OSError.
    """
    ids, groups = (user.uid,) * 3, (user.gid,) * 3
    if os.getresuid() == ids and os.getresgid() == groups and {*os.getgroups(), user.gid} == {*user.groups}:
        return
    calls = _CALLS.get(platform.machine())
    if calls is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_KEEPCAPS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
    count = len(user.groups)
    _check(libc.syscall(ctypes.c_long(calls.setgroups), ctypes.c_long(count), (_Group * count)(*user.groups)))
    for call, numbers in ((calls.setresgid, groups), (calls.setresuid, ids)):
        _check(libc.syscall(ctypes.c_long(call), *map(ctypes.c_ulong, numbers)))
    _check(libc.prctl(_PR_SET_KEEPCAPS, *map(ctypes.c_ulong, (0, 0, 0, 0))))


def _check(code: int) -> None:
    if code < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

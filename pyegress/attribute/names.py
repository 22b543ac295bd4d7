# SPDX-License-Identifier: MIT
"""Names that follow from what is known of a process: the uncut one, the script's, the user's."""

from __future__ import annotations

import pwd
import re
from collections.abc import Sequence
from functools import lru_cache

from pyegress.escape import encoded

COMM_BYTES = 15
_SCRIPT_ARGUMENTS = 3
"""The kernel puts at most the interpreter and one option before a script's path, which then is the third."""
_PLAIN_FLAGS = (
    (re.compile(r"(ba|da|z|k|a)?sh"), re.compile(r"[-+][aefhlmnptuvxkbBCEHPTi]+")),
    (re.compile(r"python[0-9.]*"), re.compile(r"-[bBdEiIOPqsSuv]+")),
    (re.compile(r"perl[0-9.]*"), re.compile(r"-[tTUwWX]+")),
    (re.compile(r"(ruby|node|nodejs|php|lua|tclsh)[0-9.]*"), re.compile(r"-w")),
)
"""Interpreters, and options of each that take no value: behind any other option the script can't be told."""


def full_name(comm: str, args: Sequence[str], exe: str | None, kernel: bool) -> str:
    """The name without the kernel's cut at 15 bytes, where the program or its arguments tell it.

    A kernel thread's worker number is left out, so that `kworker/3:1` and `kworker/u8:0` are one name.
    """
    if kernel:
        return comm.partition("/")[0]
    cut = encoded(comm)
    if len(cut) < COMM_BYTES:
        return comm
    for candidate in (exe or "", *args[:_SCRIPT_ARGUMENTS]):
        base = _base(candidate)
        if encoded(base).startswith(cut):
            return base
    return comm


def script_of(comm: str, args: Sequence[str], exe: str | None) -> str | None:
    """The script that an interpreter runs, as the arguments name it; None where none is sure.

    Run by its own name, a script is an argument whose last part is the comm (execve(2), interpreter scripts); given to
    an interpreter, it is the first argument that is no option.
    """
    if exe is None or len(args) < 2:
        return None
    program = _base(exe)
    # The kernel puts the interpreter first; a program that is called by its own name runs no script by name.
    if comm and all(encoded(_base(path))[:COMM_BYTES] != encoded(comm) for path in (exe, args[0])):
        for argument in args[1:_SCRIPT_ARGUMENTS]:
            if encoded(_base(argument))[:COMM_BYTES] == encoded(comm) and not argument.startswith("-"):
                return argument
    for name, flags in _PLAIN_FLAGS:
        if name.fullmatch(program):
            for argument in args[1:]:
                if not argument.startswith(("-", "+")):
                    return argument or None
                if not flags.fullmatch(argument):
                    return None
    return None


def split_args(args: bytes | None) -> list[str]:
    """Arguments, each of which ends with NUL, as text."""
    if not args:
        return []
    return args.rstrip(b"\0").decode("utf-8", "surrogateescape").split("\0")


@lru_cache(maxsize=4096)
def user_name(uid: int) -> str:
    """The user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _base(path: str) -> str:
    return path.rpartition("/")[2]

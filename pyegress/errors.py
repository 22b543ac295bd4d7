# SPDX-License-Identifier: MIT
"""Errors whose text is meant for the user: one line, the cause and the way on.

EgressError
├── UsageError        wrong word on the command line (exit 2)
├── UnsupportedError  kernel, capability or hook missing (exit 1)
├── InputError        an input failed while running (exit 1)
└── OutputError       an output failed while running (exit 1)
"""

import difflib
import errno
from collections.abc import Iterable

TOO_FEW_FILES = "too few files may be open (RLIMIT_NOFILE); run with `ulimit -n 1024` or LimitNOFILE=1024"


class EgressError(Exception):
    """Base of every error that is shown as one line on stderr."""

    exit_code = 1


class UsageError(EgressError):
    """The command line names something that does not exist or can't be."""

    exit_code = 2


class UnsupportedError(EgressError):
    """This kernel, or what it allows this process, does not offer what was asked for."""


class InputError(EgressError):
    """An input can't go on."""


class OutputError(EgressError):
    """An output can't go on."""


def shortage(error: Exception) -> str | None:
    """What this process, or its host, has no more of, with the way on; None where an error is another one."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        return TOO_FEW_FILES
    if number == errno.ENFILE:
        return "too many files are open on this host; raise the sysctl fs.file-max"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return "out of memory; raise MemoryMax= or RLIMIT_AS"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no thread can be started; raise TasksMax=, MemoryMax=, RLIMIT_NPROC or RLIMIT_AS"
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause that names the nearest known word, or lists all when none is near."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names) if names else "there is none"

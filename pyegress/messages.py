# SPDX-License-Identifier: MIT
"""Messages to stderr, data to stdout, and what to do when either is closed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import IntEnum
from functools import cache

import click

from pyegress.errors import OutputError
from pyegress.progressbar import Bar, is_terminal
from pyegress.stage import Stage


class Level(IntEnum):
    """Those of syslog(3), which systemd's journal shows and chooses by."""

    ERROR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7


def _write(text: str, level: Level = Level.INFO) -> None:
    line = f"{Bar.erase}pyegress: {text}"
    if _is_journal():
        line = "\n".join(f"<{level:d}>{part}" for part in line.split("\n"))
    with suppress(OSError, ValueError):
        click.echo(line, err=True)


@cache
def _is_journal() -> bool:
    """Whether the journal reads stderr, where a line may begin with its level: systemd.exec(5), sd-daemon(3)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


stage = Stage(_write, lambda: is_terminal(sys.stderr))


def say(text: str, level: Level = Level.INFO) -> None:
    """One line on stderr; the text must already be escaped. A stderr that is gone is no reason to stop."""
    if not stage.takes(text):
        _write(text, level)


def warn(text: str) -> None:
    """The same, about what somebody had better know."""
    say(text, Level.WARNING)


def say_debug(text: str) -> None:
    """The same, for those who asked for more."""
    say(f"debug: {text}", Level.DEBUG)


def show(text: str) -> None:
    """Text on stdout, where a failure is not silent."""
    if sys.stdout is None:
        raise OutputError("standard output: closed")
    try:
        click.echo(text, nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence_stdout()
        raise OutputError(f"standard output: {error.strerror}") from error


def silence_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes stdout at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guard_standard_fds() -> None:
    """Occupy descriptors 0 to 2, so that nothing opened later becomes somebody's standard output by accident.

    A closed stdout is occupied read-only: writing to it still fails, with EBADF.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is `fd`

# SPDX-License-Identifier: MIT
"""Errors: exit codes, and the word that was meant."""

import errno

import pytest

from pyegress.errors import (
    EgressError,
    InputError,
    OutputError,
    UnsupportedError,
    UsageError,
    nearest,
    shortage,
)


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (UnsupportedError, 1), (InputError, 1), (OutputError, 1)]
)
def test_exit_code(error: type[EgressError], code: int) -> None:
    """A wrong word ends with 2, everything else with 1; one `except` takes them all."""
    with pytest.raises(EgressError) as caught:
        raise error("text")
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("word", "known", "clause"),
    [
        ("kprob", ["auto", "fentry", "kprobe"], "did you mean 'kprobe'?"),
        ("zzz", ["auto", "fentry"], "known: auto, fentry"),
        ("zzz", [], "there is none"),
        ("", ["auto"], "known: auto"),
    ],
)
def test_nearest(word: str, known: list[str], clause: str) -> None:
    """The nearest word is offered, or all of them when none is near."""
    assert nearest(word, iter(known)) == clause


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "x"), "RLIMIT_NOFILE"),
        (OSError(errno.ENFILE, "x"), "fs.file-max"),
        (OSError(errno.ENOMEM, "x"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "TasksMax="),
    ],
)
def test_shortage(error: Exception, told: str) -> None:
    """What is short is named, with where to raise it."""
    assert told in (shortage(error) or "")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "x"), RuntimeError("x"), OSError("x"), ValueError()])
def test_no_shortage(error: Exception) -> None:
    """Another error is none."""
    assert shortage(error) is None

# SPDX-License-Identifier: MIT
"""Errors: exit codes, and the word that was meant."""

import pytest

from pyegress.errors import EgressError, InputError, OutputError, UnsupportedError, UsageError, nearest


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

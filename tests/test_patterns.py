# SPDX-License-Identifier: MIT
"""Patterns: one set of rules for all options that match processes (more through ProcessFilters in test_filters)."""

from __future__ import annotations

import pytest

from pyegress.errors import UsageError
from pyegress.patterns import KINDS, read
from pyegress.record import Process

CURL = Process(pid=7, comm="curl", name="curl", exe="/usr/bin/curl", cmdline="curl -s x", uid=0, user="root")


@pytest.mark.parametrize(
    ("kind", "pattern", "found"),
    [
        ("comm", "curl", True),
        ("comm", "curl2", False),
        ("comm", "cur", False),
        ("comm", "cu*", True),
        ("exe", "/usr/bin/curl", True),
        ("exe", "curl", False),
        ("cmdline", "-s", True),
        ("cmdline", "*-s", False),
        ("user", "root", True),
        ("user", "0", True),
        ("unit", "ssh.service", None),
        ("parent", "bash", None),
        ("container", "web", None),
    ],
)
def test_whole_names_and_globs(kind: str, pattern: str, found: bool | None) -> None:
    """A plain name is the whole name; what is not known of a process is neither yes nor no."""
    assert read("allow-x", kind, pattern)[1](CURL) is found


def test_of_an_owner_alone_only_the_user_is_known() -> None:
    """A process without a number has no name, path or parent to match."""
    owner = Process(uid=0, user="root")
    found = {kind: read("allow-x", kind, "root")[1](owner) for kind in KINDS}
    assert found.pop("user") is True
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("comm", "", "allow-comm: the pattern must not be empty"),
        ("user", "nobody-\x1b", r"allow-user: nobody-\\u001b: no such user; give its number"),
        ("user", "4294967295", "allow-user: 4294967295: no such user; a number is at most 4294967294"),
    ],
)
def test_what_can_not_be_is_an_error(kind: str, given: str, message: str) -> None:
    """The message names the option and the pattern, escaped."""
    with pytest.raises(UsageError, match=message):
        read(f"allow-{kind}", kind, given)

# SPDX-License-Identifier: MIT
"""Filters by name: labels and globs, and what is hidden is counted."""

from __future__ import annotations

import pytest

from pyegress.destinations import DestinationFilterOptions
from pyegress.errors import UsageError
from pyegress.losses import Losses
from pyegress.namefilters import NameFilters, matcher
from pyegress.record import Connection


def named(*names: str, count: int = 1) -> Connection:
    """A connection to something of these names."""
    return Connection(1, "ebpf", "udp", 4, "192.0.2.1", 443, count=count, dest_names=names)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.example", ["a.example"], ["b.a.example", "a.example.com", "aXexample"]),
        ("A.Example.", ["a.example"], []),
        ("*.example", ["a.example", r"a\.b.example"], ["example", "a.b.example"]),
        ("**.example", ["a.example", "b.a.example"], ["example", r"a\.example", "a.example.com"]),
        ("a*z.example", ["az.example", "abz.example"], ["a.z.example", "a"]),
        ("a?.example", ["ab.example", r"a\255.example"], ["a.example", "abc.example"]),
        ("**", ["a", "a.b"], [""]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    """A star stands within a label, two for some labels; a dot in a label parts nothing."""
    found = matcher("only-name", pattern)
    assert [name for name in [*matching, *others] if found.fullmatch(name)] == matching


@pytest.mark.parametrize("pattern", ["", ".", "a..b", ".a"])
def test_what_is_no_pattern(pattern: str) -> None:
    """Says what is one."""
    with pytest.raises(UsageError, match=r"^ignore-name: .*must be a name such as a\.example"):
        NameFilters(DestinationFilterOptions(ignore_name=(pattern,)))


def test_hidden() -> None:
    """Any name that is ignored hides; only-name hides what has names and none of those; both are counted."""
    given = [named("www.a.example", "cdn"), named("b.example", count=3), named("c.example"), named()]
    filters = NameFilters(
        DestinationFilterOptions(ignore_name=("cdn",), only_name=("*.a.example", "c.example"))
    )
    assert filters.apply(given) == given[2:]
    losses = Losses()
    filters.put(losses, "ebpf")
    assert losses.snapshot() == {
        ("skipped", "by ignore-name:cdn"): 1,
        ("skipped", "outside only-name"): 3,
    }


def test_no_rules() -> None:
    """Nothing is looked at."""
    batch = [named("a.example")]
    assert NameFilters(DestinationFilterOptions()).apply(batch) is batch

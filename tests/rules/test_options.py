# SPDX-License-Identifier: MIT
"""The bound of width, as it is written."""

from __future__ import annotations

import pytest

from pyegress.rules.addresses import Network
from pyegress.rules.options import MaxExtra, RuleOptions


@pytest.mark.parametrize(
    ("text", "addresses", "prefix4", "prefix6", "again"),
    [
        ("256", 256, 0, 0, "256"),
        ("0", 0, 0, 0, "0"),
        ("/24", None, 24, 120, "/24,/120"),
        ("/24,/64", None, 24, 64, "/24,/64"),
        ("/32", None, 32, 128, "/32,/128"),
        ("/0", None, 0, 96, "/0,/96"),
    ],
)
def test_read(text: str, addresses: int | None, prefix4: int, prefix6: int, again: str) -> None:
    read = MaxExtra.read(text)
    assert (read.addresses, read.prefix4, read.prefix6, str(read)) == (addresses, prefix4, prefix6, again)
    assert MaxExtra.read(str(read)) == read


@pytest.mark.parametrize("text", ["", "-1", "1.5", "/33", "/24,/129", "/24,64", "24/", "٣", "9" * 10, "/24,"])
def test_what_it_must_be(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number of addresses such as 256, or the widest network"):
        MaxExtra.read(text)


def test_allows() -> None:
    wide, narrow = Network(4, 0, 24), Network(6, 0, 120)
    assert MaxExtra.read("255").allows(wide, 1)
    assert not MaxExtra.read("254").allows(wide, 1)
    assert MaxExtra.read("/24").allows(wide, 1) and MaxExtra.read("/24").allows(narrow, 1)
    assert not MaxExtra.read("/25,/64").allows(wide, 200)


def test_defaults_widen_nothing_and_stop_nothing() -> None:
    options = RuleOptions()
    assert (options.scope, options.merge, options.baseline, options.policy) == ("any", "exact", False, "log")

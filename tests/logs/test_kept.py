# SPDX-License-Identifier: MIT
"""A cache whose memory has an end."""

from __future__ import annotations

from pyegress.logs.kept import Kept


def test_keeps_until_it_is_full() -> None:
    """Whatever comes, what is kept stays below the limit, and the newest is there."""
    kept: Kept[int, str] = Kept(64_000, 100)
    for number in range(10_000):
        assert kept.keep(number, str(number), 20) == str(number)
        assert kept.get(number) == str(number)
        assert len(kept) * (100 + 5 * 20) <= 64_000
    assert len(kept) > 1


def test_what_would_push_out_all_others_is_not_kept() -> None:
    kept: Kept[int, str] = Kept(64_000, 100)
    kept.keep(1, "one", 1)
    assert kept.keep(2, "two", 10_000) == "two"
    assert kept == {1: "one"}

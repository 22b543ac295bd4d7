# SPDX-License-Identifier: MIT
"""Values that are kept."""

from __future__ import annotations

from pyegress.remember import keep


def test_full_cache_forgets_all_but_the_new() -> None:
    """It never has more than it may, and each value is given back."""
    cache: dict[int, str] = {}
    assert [keep(cache, number, str(number), 3) for number in range(4)] == ["0", "1", "2", "3"]
    assert cache == {3: "3"}

# SPDX-License-Identifier: MIT
"""Numbers and what they leave out."""

import pytest

from pyegress.netfilter.gaps import Gaps

LAST = (1 << 32) - 1


@pytest.mark.parametrize(
    ("numbers", "missed"),
    [
        ([0, 1, 2], 0),
        ([3], 3),
        ([0, 1, 4, 5, 9], 5),
        ([LAST], 0),
        ([0, None, 1], 0),
        ([0, 5, 3, 6], 4),
        ([1 << 30, 1 << 31, LAST, 0, 1], LAST - 2),
        ([(1 << 30), (1 << 31), (3 << 30), LAST, 2], LAST - 1),
    ],
)
def test_missed(numbers: list[int | None], missed: int) -> None:
    """Numbers start again after four billion; an older one is no loss."""
    gaps = Gaps(0)
    for number in numbers:
        gaps.follow(number)
    assert gaps.missed == missed


def test_first() -> None:
    """What comes first may be 1."""
    gaps = Gaps(1)
    gaps.follow(1)
    gaps.follow(3)
    assert gaps.missed == 1


def test_reach() -> None:
    """What ends without a last number is known by the one that would be next."""
    gaps = Gaps(1)
    for number in (4, 4, 3):
        gaps.reach(number)
    assert gaps.missed == 3
    gaps.follow(4)
    gaps.reach(5)
    assert gaps.missed == 3

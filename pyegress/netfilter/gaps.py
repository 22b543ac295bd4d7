# SPDX-License-Identifier: MIT
"""Loss told by numbers that grow by one with each packet."""

_NUMBERS = 1 << 32
_FARTHEST = 1 << 31


class Gaps:
    """Follows numbers of 32 bits that wrap."""

    def __init__(self, first: int) -> None:
        self._expected = first
        self.missed = 0
        """Numbers left out so far."""

    def follow(self, number: int | None) -> None:
        """Take the next number, if there is one."""
        if number is None:
            return
        if self.reach(number):
            self._expected = (number + 1) % _NUMBERS

    def reach(self, number: int) -> bool:
        """Take it that this number comes next; False for an older one, which is no loss of four billion."""
        missed = (number - self._expected) % _NUMBERS
        if missed >= _FARTHEST:
            return False
        self.missed += missed
        self._expected = number % _NUMBERS
        return True

# SPDX-License-Identifier: MIT
"""The fewest networks around addresses, none wider than allowed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from pyegress.rules.addresses import BITS, Family, Network


def cover(
    family: Family, numbers: Sequence[int], allows: Callable[[Network, int], bool]
) -> Iterator[tuple[Network, int, int]]:
    """Each network with the places of the first and behind the last of its addresses, in order.

    `numbers` are sorted and distinct. `allows` says whether a network with so many of them is not too wide; it must
    allow every part of what it allows.
    """
    bits = BITS[family]
    parts = [(0, len(numbers))] if numbers else []
    while parts:
        start, end = parts.pop()
        low, high = numbers[start], numbers[end - 1]
        host = (low ^ high).bit_length()
        network = Network(family, low >> host << host, bits - host)
        if end - start == 1 or allows(network, end - start):
            yield network, start, end
        else:
            # The upper half waits, so that what comes out is in order.
            middle = bisect_left(numbers, high >> host - 1 << host - 1, start, end)
            parts += [(middle, end), (start, middle)]

# SPDX-License-Identifier: MIT
"""Networks hold all addresses, overlap nowhere, keep the bound, and none could be wider."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyegress.rules.addresses import BITS, Family, Network
from pyegress.rules.cover import cover
from pyegress.rules.options import MaxExtra

EXTRA = st.one_of(
    st.integers(0, 600).map(str),
    st.tuples(st.integers(0, 32), st.integers(0, 128)).map(lambda pair: f"/{pair[0]},/{pair[1]}"),
).map(MaxExtra.read)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[Family, list[int]]:
    """Some near each other, some anywhere, also the first and the last of all."""
    family: Family = draw(st.sampled_from([4, 6]))
    most = (1 << BITS[family]) - 1
    near = st.builds(lambda base, offset: min(base + offset, most), st.sampled_from([0, 1 << 20, most - 300]),
                     st.integers(0, 300))  # fmt: skip
    return family, sorted(draw(st.sets(st.one_of(near, st.integers(0, most)), max_size=30)))


@given(addresses(), EXTRA)
def test_cover(given: tuple[Family, list[int]], extra: MaxExtra) -> None:
    family, numbers = given
    found = list(cover(family, numbers, extra.allows))
    places = [place for _, start, end in found for place in range(start, end)]
    assert places == list(range(len(numbers)))
    for network, start, end in found:
        assert network.family == family
        assert network.first % network.addresses == 0
        assert all(0 <= number - network.first < network.addresses for number in numbers[start:end])
        assert extra.allows(network, end - start) or network.addresses == 1
    ends = [(network.first, network.first + network.addresses - 1) for network, _, _ in found]
    assert all(last < first for (_, last), (first, _) in pairwise(ends))
    for (one, start, _), (other, _, end) in pairwise(found):
        assert not extra.allows(around(one, other), end - start)


def around(one: Network, other: Network) -> Network:
    """The smallest network that holds both."""
    host = (one.first ^ (other.first + other.addresses - 1)).bit_length()
    return Network(one.family, one.first >> host << host, BITS[one.family] - host)


def test_nothing() -> None:
    assert list(cover(4, [], lambda network, used: True)) == []

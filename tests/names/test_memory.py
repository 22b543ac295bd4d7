# SPDX-License-Identifier: MIT
"""The memory of names: what led to an address, for how long, and how much of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.memory import GRACE_NS, MOST_OF_ADDRESS, MOST_SHOWN, Memory, Named
from tests.names.wire import SECOND_NS

ADDRESS = "192.0.2.1"


def names(memory: Memory, now_ns: int = 0, asker: int = 0) -> list[str]:
    """Those of the address."""
    return [named.name for named in memory.names(ADDRESS, now_ns, asker)]


def test_names_in_the_order_they_came() -> None:
    """With their source and age; what is told again is younger, in its old place."""
    memory = Memory()
    memory.learn(ADDRESS, ("www.example", "a.cdn"), "dns", 60, 0)
    memory.learn(ADDRESS, ("b.example", "a.cdn"), "dns", 60, 5 * SECOND_NS)
    assert memory.names(ADDRESS, 8 * SECOND_NS) == [
        Named("www.example", "dns", 8),
        Named("a.cdn", "dns", 3),
        Named("b.example", "dns", 3),
    ]
    assert memory.names("192.0.2.2", 0) == ()


def test_who_asked_comes_first() -> None:
    """Of many names of one address, those that the process asked for itself."""
    memory = Memory()
    memory.learn(ADDRESS, ("a.example",), "dns", 60, 0, 1)
    memory.learn(ADDRESS, ("b.example",), "dns", 60, 0, 2)
    assert names(memory, asker=2) == ["b.example", "a.example"]
    assert names(memory, asker=3) == ["a.example", "b.example"]


def test_names_outlive_their_time_by_the_grace() -> None:
    """Also those that may not be kept at all; then they are gone."""
    memory = Memory()
    memory.learn(ADDRESS, ("a.example",), "dns", 0, 0)
    memory.learn(ADDRESS, ("b.example",), "dns", 60, 0)
    assert names(memory, GRACE_NS - 1) == ["a.example", "b.example"]
    assert names(memory, GRACE_NS) == ["b.example"]
    assert names(memory, GRACE_NS + 60 * SECOND_NS) == []
    assert (len(memory), memory.forgotten) == (0, 0)


def test_oldest_are_forgotten() -> None:
    """And counted, unless their time was over; an address that is told again is not old."""
    memory = Memory(most=2)
    for address, now_ns in (("a", 0), ("b", 1), ("a", 2), ("c", 3)):
        memory.learn(address, (address,), "dns", 0, now_ns)
    assert [bool(memory.names(address, 4)) for address in "abc"] == [True, False, True]
    assert (len(memory), memory.forgotten) == (2, 1)
    memory.learn("d", ("d",), "dns", 0, GRACE_NS + 2)
    assert (len(memory), memory.forgotten) == (2, 1)


def test_many_names_of_one_address() -> None:
    """Are bounded too, the oldest forgotten; and a record shows some."""
    memory = Memory()
    for number in range(MOST_OF_ADDRESS + 1):
        memory.learn(ADDRESS, (f"{number}.example",), "dns", 60, number)
        assert len(memory) <= MOST_OF_ADDRESS
    first = memory.forgotten
    assert len(memory) + first == MOST_OF_ADDRESS + 1
    assert names(memory) == [f"{number}.example" for number in range(first, first + MOST_SHOWN)]


_ACTS = st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(0, 3), st.integers(0, 9))


@given(st.lists(_ACTS, max_size=200))
def test_size_is_what_is_held(acts: list[tuple[str, str, int, int]]) -> None:
    """Never more than the bound, whatever comes when."""
    memory, now_ns = Memory(most=5, grace_ns=2), 0
    for address, name, ttl_s, later in acts:
        now_ns += later * SECOND_NS // 2
        memory.learn(address, (name,), "dns", ttl_s, now_ns)
        memory.names(name, now_ns)
        assert len(memory) <= 5
    held = sum(len(memory.names(address, now_ns)) for address in "abcdef")
    assert held == len(memory)


def test_what_a_connection_is_judged_by() -> None:
    """The names that the process asked for, where it did; else all, also more than are shown, while they are good."""
    memory = Memory()
    memory.learn("192.0.2.1", ("a.example",), "dns", 60, 0, asker=7)
    for number in range(MOST_SHOWN + 1):
        memory.learn("192.0.2.1", (f"b{number}.example",), "dns", 60, 0, asker=8)
    assert memory.judged_by("192.0.2.1", 1, 7) == ["a.example"]
    assert (
        len(memory.judged_by("192.0.2.1", 1, 9)) == len(memory.judged_by("192.0.2.1", 1, 0)) == MOST_SHOWN + 2
    )
    assert memory.judged_by("192.0.2.1", GRACE_NS + 60 * 10**9, 7) == []
    assert memory.judged_by("192.0.2.2", 1, 7) == []

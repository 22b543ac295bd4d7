# SPDX-License-Identifier: MIT
"""Times to the nanosecond, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.logs.timestamp import Clock, TimeReader, parsed
from tests.logs.records import LAST_NS

TS = 1_700_000_000_123_456_789
TEXT = "2023-11-14T22:13:20.123456789Z"


@given(st.lists(st.integers(0, LAST_NS) | st.integers(TS, TS + 10**10)))
def test_round_trip(times: list[int]) -> None:
    clock, reader = Clock(), TimeReader()
    assert [reader.ns(clock.text(ts)) for ts in times] == times


@pytest.mark.parametrize(
    ("ts", "text"),
    [(TS, TEXT), (-5, "1970-01-01T00:00:00.000000000Z"), (2**70, "9999-12-31T23:59:59.999999999Z")],
)
def test_text(ts: int, text: str) -> None:
    clock = Clock()
    assert [clock.text(TS), clock.text(ts), clock.text(TS)] == [TEXT, text, TEXT]


@pytest.mark.parametrize(
    ("text", "ns"),
    [("2023-11-14T22:13:20Z", 0), ("2023-11-14T22:13:20.5Z", 500_000_000), (TEXT, 123_456_789)],
)
def test_shorter_fractions(text: str, ns: int) -> None:
    assert parsed(text) == TimeReader().ns(text) == 1_700_000_000_000_000_000 + ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT + " ",
        TEXT[:-1],
        TEXT.replace("Z", "+00:00"),
        TEXT.replace("T", " "),
        TEXT.replace("13:20", "13:60"),
        TEXT.replace("11-14", "02-30"),
        TEXT.replace("789", "78_"),
        TEXT.replace("789", "78٣"),
        TEXT.replace("2023", "0000"),
    ],
)
def test_no_time(text: str) -> None:
    reader = TimeReader()
    reader.ns(TEXT)
    with pytest.raises(ValueError):
        reader.ns(text)

# SPDX-License-Identifier: MIT
"""What a user may say of Loki; what is wrong with a URL or a password is tested with the output."""

from __future__ import annotations

import pytest

from pyegress.loki.options import Moment, QueryOptions

DAY_NS = 86_400 * 10**9
NOW_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("now", NOW_NS),
        ("0", NOW_NS),
        ("30d", NOW_NS - 30 * DAY_NS),
        ("1h30m", NOW_NS - 5400 * 10**9),
        ("200d", NOW_NS - 200 * DAY_NS),
        ("100000d", 0),
        ("1970-01-02", DAY_NS),
        ("1970-01-02T00:00:00.5Z", DAY_NS + 500_000_000),
        ("1970-01-02T01:00+01:00", DAY_NS),
        ("1950-01-01", 0),
    ],
)
def test_moment(text: str, ns: int) -> None:
    """Ago, or a time in UTC; never before the epoch."""
    assert Moment.read(text).ns(NOW_NS) == ns


@pytest.mark.parametrize("text", ["", "30", "yesterday", "-1d", "2026-13-01", "1970-01-02T99"])
def test_no_moment(text: str) -> None:
    """Both ways to say it are named."""
    with pytest.raises(ValueError, match="such as 30d, or a time in UTC, such as 2026-11-01T12:00"):
        Moment.read(text)


def test_moment_as_text() -> None:
    """As it would be typed."""
    for text in ("now", "30d", "1970-01-02T00:00:00+00:00"):
        assert str(Moment.read(text)) == text


def test_query_is_checked() -> None:
    """With the address."""
    with pytest.raises(ValueError, match="query: must be a log query"):
        QueryOptions(url="http://localhost", query="rate")
    with pytest.raises(ValueError, match="url: must be"):
        QueryOptions(url="ftp://localhost")

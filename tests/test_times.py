# SPDX-License-Identifier: MIT
"""Times and spans as people read them."""

import pytest

from pyegress.times import duration_text, rfc3339


def test_time() -> None:
    """UTC, to the second."""
    assert rfc3339(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m 1s"), (3600, "1h"), (3661, "1h 1m"), (273_605, "3d 4h")],
)
def test_span(seconds: int, text: str) -> None:
    """The two largest units, none that is zero."""
    assert duration_text(seconds * 1_000_000_000) == text

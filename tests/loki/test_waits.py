# SPDX-License-Identifier: MIT
"""Waits grow, and no two hosts wait alike."""

from __future__ import annotations

from pyegress.loki.waits import FIRST_WAIT_S, MOST_WAIT_S, growing


def test_twice_as_long_each_time() -> None:
    """Up to a bound, less up to a half by chance."""
    found = [growing(failures, 0.0) for failures in range(1, 60)]
    for number, seconds in enumerate(found):
        most = min(FIRST_WAIT_S * 2.0**number, MOST_WAIT_S)
        assert most / 2 <= seconds <= most
    assert len(set(found)) > 50


def test_what_the_server_asked_for() -> None:
    """Is the least, and never shortens a wait."""
    assert growing(1, 1234.0) == 1234.0
    assert growing(20, 0.001) >= MOST_WAIT_S / 2

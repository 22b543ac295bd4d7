# SPDX-License-Identifier: MIT
"""How long to wait before a server is asked again."""

from __future__ import annotations

import random

FIRST_WAIT_S = 0.5
MOST_WAIT_S = 60.0


def growing(failures: int, asked_s: float, first_s: float = FIRST_WAIT_S) -> float:
    """Seconds after so many failures in a row, at least what the server asked for."""
    wait_s = min(first_s * 2.0 ** min(failures - 1, 16), MOST_WAIT_S)
    wait_s *= random.uniform(0.5, 1.0)  # many hosts must not come back at once
    return max(wait_s, asked_s)

# SPDX-License-Identifier: MIT
"""The nice number of this thread and of those it starts: a reader that waits for a CPU loses what a full ring drops."""

from __future__ import annotations

import os
from collections.abc import Callable

from pyegress.errors import UnsupportedError
from pyegress.options import whole_number

DEFAULT = -4
"""As auditd's priority_boost."""
LOWEST = -20


def number(text: str) -> int:
    """What `--nice` can be given; ValueError says what is right. Above 0 is what nice(1) is for."""
    found = whole_number(text)
    if not LOWEST <= found <= 0:
        raise ValueError(f"must be from {LOWEST} to 0")
    return found


def take(asked: int | None, debug: Callable[[str], None]) -> None:
    """Go down to that number, never up; without one to DEFAULT, where whoever started this left it at 0.

    Raises UnsupportedError where a number that was asked for isn't permitted.
    """
    now = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = DEFAULT if asked is None else asked
    if wanted == 0 or now <= wanted or (asked is None and now != 0):
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except OSError as error:
        what = f"--nice {wanted}: {error.strerror}"
        if asked is not None:
            raise UnsupportedError(
                f"{what}; needs CAP_SYS_NICE, or an RLIMIT_NICE of {20 - wanted} (LimitNICE={wanted})"
            ) from None
        debug(f"{what}; going on with {now}")
    else:
        debug(f"nice {wanted}")

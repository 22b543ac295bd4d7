# SPDX-License-Identifier: MIT
"""What a check of the doctor found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from pyegress.errors import EgressError

State = Literal["works", "limited", "fails", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """One line of the report; a key of its JSON each. All text is fit for a terminal."""

    name: str
    state: State
    detail: str
    """What was found, or the cause."""
    remedy: str | None = None
    """What to do about it."""


Check = Callable[[str], Finding]
"""Tries something under the name that it has in the report, and lets go of it."""


def of_error(name: str, error: EgressError, state: State = "fails") -> Finding:
    """The finding that an error of ours is: `NAME: the cause; the way on`."""
    cause, _, way_on = str(error).removeprefix(f"{name}: ").partition("; ")
    return Finding(name, state, cause, way_on or None)

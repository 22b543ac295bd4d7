# SPDX-License-Identifier: MIT
"""Names and values of stream labels that a user gives, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyegress.errors import nearest

HOST, JOB = "host", "job"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


def labels(text: str, fields: Iterable[str]) -> dict[str, str]:
    """The labels of `k=v,k=v`; ValueError says what is wrong. `fields` are names that records use themselves."""
    found: dict[str, str] = {}
    for pair in text.split(",") if text else ():
        name, separator, value = pair.partition("=")
        if not (separator and value):
            raise ValueError(f"labels: {pair!r} must be NAME=VALUE")
        if not _NAME.fullmatch(name) or name.startswith("__"):
            raise ValueError(
                f"labels: {name!r} can't be a label: letters, digits and _, no digit first, nor __ which is Loki's own"
            )
        if name in found:
            raise ValueError(f"labels: {name!r} is given twice")
        if name in fields:
            raise ValueError(f"labels: {name!r} is a field of every record; take another name")
        if not value.isprintable():
            raise ValueError(f"labels: the value of {name!r} must be printable text")
        found[name] = value
    return found


def stream_labels(text: str, allowed: Iterable[str]) -> frozenset[str]:
    """The fields of `a,b` that are to be labels; ValueError names the nearest that can be."""
    names = text.split(",") if text else []
    for name in names:
        if name not in allowed:
            raise ValueError(f"stream-labels: no field {name!r} can be a label; {nearest(name, allowed)}")
    return frozenset(names)

# SPDX-License-Identifier: MIT
"""A TOML file that a person wrote, read within bounds; every error names the file, and the line where there is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pyegress.errors import UsageError
from pyegress.escape import display
from pyegress.options import size_text

FILE_BYTES = 1 << 20


class TomlFile(NamedTuple):
    """What it says, and how it is written."""

    text: str
    content: dict[str, Any]


def read(path: str, where: str) -> TomlFile:
    """The file's content; UsageError begins with `where`."""
    text = _text(path, where)
    try:
        return TomlFile(text, msgspec.toml.decode(text))
    except msgspec.DecodeError as error:
        message = display(str(error))
        at = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", message)
        if at:
            where, message = f"{where}:{at[1]}", message[: at.start()]
        raise UsageError(f"{where}: not TOML: {message[:1].lower()}{message[1:]}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number too long
        raise UsageError(f"{where}: not TOML: {display(str(error))}") from None


def _text(path: str, where: str) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: {getattr(error, 'strerror', None) or 'not a path'}") from None
    if len(raw) > FILE_BYTES:
        raise UsageError(f"{where}: must be at most {size_text(FILE_BYTES)}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{where}:{line}: must be UTF-8") from None

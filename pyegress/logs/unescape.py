# SPDX-License-Identifier: MIT
r"""The way back from `escape.display`, for text as `record` has it: decoded with surrogateescape."""

from __future__ import annotations

import re

_CODES = r"u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|u(dc[89a-f][0-9a-f]|(?!d[89a-f])[0-9a-f]{4})"
# The last, empty, alternative is a backslash that begins none of them.
_DISPLAYED = re.compile(rf"\\(?:([\\nrt])|{_CODES}|)")
_QUOTED = re.compile(rf'\\(?:(["\\nrt])|{_CODES}|)')
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}


def undisplayed(text: str) -> str:
    """What `display` was given; ValueError where it can't have written that."""
    return _plain(_DISPLAYED, text)


def unquoted(text: str) -> str:
    r"""The same for what stands between quotes, where a quote is `\"`."""
    return _plain(_QUOTED, text)


def _plain(escapes: re.Pattern[str], text: str) -> str:
    if not text.isprintable():
        raise ValueError("a character that is never written as it is")
    return escapes.sub(_char, text) if "\\" in text else text


def _char(match: re.Match[str]) -> str:
    named, high, low, code = match.groups()
    if named is not None:
        return _NAMED.get(named, named)
    if high is not None:
        return chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00)
    if code is not None:
        return chr(int(code, 16))
    raise ValueError("an unknown escape")

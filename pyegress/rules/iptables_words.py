# SPDX-License-Identifier: MIT
"""A line for iptables-restore, or for a shell, split into its words."""

from __future__ import annotations

import re
from collections.abc import Iterator


class BadLineError(ValueError):
    """It can't be read; the text says why, without its place."""


class OpenQuoteError(BadLineError):
    """It ends inside quotes."""


_WORD = re.compile(r'[ \t]*(?=[^ \t])([^ \t"]*)(?:"((?:[^"\\]|\\.)*)"|(?=[ \t]|\Z))', re.DOTALL)
"""A quote that opens may stand within a word, one that closes ends it."""
_PLAIN = re.compile(r"[^ \t]+")
_BLANK = re.compile(r"[ \t\r]*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SHELL_PIECE = re.compile(r"\"((?:[^\"\\$`]|\\.)*)\"|'([^']*)'|\\(.)|([^ \t\"'\\;&|<>()$`]+)", re.DOTALL)
_SHELL_ESCAPED = re.compile(r'\\(["\\$`])')


def restore_words(text: str) -> list[str]:
    """As iptables-restore splits it: double quotes, and inside them a backslash before what is meant itself."""
    if '"' not in text:
        return _PLAIN.findall(text.rstrip("\r"))
    found, at = [], 0
    while match := _WORD.match(text, at):
        bare, quoted = match.groups()
        found.append(bare + _ESCAPED.sub(r"\1", quoted or ""))
        at = match.end()
    if _BLANK.fullmatch(text, at) is None:
        raise OpenQuoteError("a double quote is not closed")
    return found


def shell_words(text: str) -> list[str]:
    """As a shell splits a plain command; it must hold nothing that a shell would act upon."""
    return list(_shell_words(text.strip(" \t\r")))


def _shell_words(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        if text[at] == "#":
            return
        word = ""
        while at < len(text) and text[at] not in " \t":
            match = _SHELL_PIECE.match(text, at)
            if match is None:
                raise BadLineError(f"not a plain command: a shell would act upon {text[at]!r}")
            double, single, escaped, bare = match.groups()
            if double is not None:
                word += _SHELL_ESCAPED.sub(r"\1", double)
            else:
                word += single if single is not None else escaped or bare
            at = match.end()
        yield word

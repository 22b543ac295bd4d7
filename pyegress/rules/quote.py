# SPDX-License-Identifier: MIT
r"""Text that somebody else chose, inside an iptables line that a shell or iptables-restore may read.

Both readers take double quotes, and inside them `\"`, `\\`, `\$` and `` \` `` mean the second character
(measured with iptables-restore 1.8.9, dash and bash), so those four get a backslash and come back.
`!` has no form that is inert in both: interactive bash expands it inside double quotes, and keeps the
backslash of `\!`. So it is written as `\u0021`, and what `escape.display` does not show as it is (control,
bidi, newline, a byte that is not UTF-8) is written as `display` writes it. A backslash is doubled only where
it would else be read as the start of such an escape: that keeps the text reversible and `a\b` readable.
"""

import re

from pyegress.escape import escaped

COMMENT_BYTES = 255
"""The kernel's xt_comment holds 255 bytes and a NUL."""

_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@:/-]*")
_ACTIVE = str.maketrans({char: "\\" + char for char in '"\\$`'})
_AFTER_BACKSLASH = frozenset("\\nrtu")


def visible(text: str, limit: int) -> str:
    """The text with what can't be written as it is spelled out, cut to `limit` bytes between characters."""
    tokens: list[str] = []
    following = ""
    # A character is never less than a byte; one more is kept for the backslash that looks ahead.
    for char in reversed(text[: limit + 1]):
        if char == "\\":
            following = "\\\\" if following[:1] in _AFTER_BACKSLASH else "\\"
        else:
            following = "\\u0021" if char == "!" else escaped(char)
        tokens.append(following)
    kept, room = [], limit
    for token in reversed(tokens):
        room -= len(token.encode())
        if room < 0:
            break
        kept.append(token)
    return "".join(kept)


def quoted(text: str, limit: int = COMMENT_BYTES) -> str:
    """The text in double quotes; what a reader gets out of them has at most `limit` bytes."""
    return exact(visible(text, limit))


def exact(text: str) -> str:
    """Printable text without `!` in double quotes; a reader gets out of them just that, not what shows it."""
    return '"' + text.translate(_ACTIVE) + '"'


def comment(name: str | None, limit: int = COMMENT_BYTES) -> str:
    """The argument of `--comment` for a process of that name; always quoted, never empty."""
    return quoted(name or "unknown process", limit)


def word(text: str, limit: int = COMMENT_BYTES) -> str:
    """The text bare if it is a harmless word, otherwise quoted: for `#` lines, which zsh runs when pasted."""
    return text if len(text) <= limit and _BARE.fullmatch(text) else quoted(text, limit)

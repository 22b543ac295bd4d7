# SPDX-License-Identifier: MIT
r"""How text that somebody else chose is shown: one way for every output and every message.

Printable text stays as it is. A backslash becomes `\\`; newline, return and tab become `\n`, `\r`, `\t`;
a byte that is not UTF-8 becomes `\xff`; every other character that is not printable (control, format, bidi,
line separator, unassigned, a space other than U+0020) becomes `\u001b` or `\U000e0001`. Reversible.
"""

_NAMED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def display(text: str) -> str:
    """The text (decoded with surrogateescape) as one line that is safe on a terminal and valid as UTF-8."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(escaped, text))


def escaped(char: str) -> str:
    """One character as `display` shows it."""
    named = _NAMED.get(char)
    if named is not None:
        return named
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

# SPDX-License-Identifier: MIT
r"""How text that somebody else chose is shown: one way for every output and every message.

Printable text stays as it is. A backslash becomes `\\`; newline, return and tab become `\n`, `\r`, `\t`; every
other character that is not printable (control, format, bidi, line separator, unassigned, a space other than U+0020)
becomes `\u001b`, beyond U+FFFF a surrogate pair; a byte that is not UTF-8, say 0xff, becomes `\udcff`. These are
JSON's escapes (RFC 8259, 7), which logfmt's readers take too, and with Python's surrogateescape they are reversible.
"""

_NAMED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def display(text: str) -> str:
    """The text (decoded with surrogateescape) as one line that is safe on a terminal and valid as UTF-8."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(escaped, text))


def encoded(text: str) -> bytes:
    """The bytes that the text (decoded with surrogateescape) was. Not os.fsencode: the locale has no say in it."""
    return text.encode("utf-8", "surrogateescape")


def escaped(char: str) -> str:
    """One character as `display` shows it."""
    named = _NAMED.get(char)
    if named is not None:
        return named
    if char.isprintable():
        return char
    code = ord(char)
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"

# SPDX-License-Identifier: MIT
"""Nothing that `display` gives can move a cursor, start a line or turn text around."""

import sys
import unicodedata

import pytest

from pyegress.escape import display


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Web Content", "Web Content"),
        ("grüße 漢字", "grüße 漢字"),
        ("a\\b", "a\\\\b"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("a\\nb", "a\\\\nb"),
        ("\x1b[31m", "\\u001b[31m"),
        ("\x00\x7f\x9b", "\\u0000\\u007f\\u009b"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u200e\u200f\u202a\u202e\u2066\u2069", "\\u200e\\u200f\\u202a\\u202e\\u2066\\u2069"),
        (b"\xff\xfe".decode(errors="surrogateescape"), "\\udcff\\udcfe"),
        ("né"[:2].encode()[:2].decode(errors="surrogateescape"), "n\\udcc3"),
        ("\\xff", "\\\\xff"),
        ("\U000e0001", "\\udb40\\udc01"),
        ("\ud800", "\\ud800"),
    ],
)
def test_display(text: str, shown: str) -> None:
    assert display(text) == shown


def test_every_character_is_safe_and_distinct() -> None:
    shown = [display(chr(code)) for code in range(sys.maxunicode + 1)]
    assert len(set(shown)) == len(shown)
    left = {char for text in shown for char in text}
    assert {unicodedata.category(char) for char in left} & {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"} == set()
    "".join(shown).encode()

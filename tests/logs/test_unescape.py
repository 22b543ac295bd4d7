# SPDX-License-Identifier: MIT
"""Escapes are taken off as they were put on, and no others are."""

from __future__ import annotations

import pytest
from hypothesis import given

from pyegress.escape import display
from pyegress.logs.unescape import undisplayed, unquoted
from tests.logs.records import texts


@given(texts)
def test_round_trip(text: str) -> None:
    assert undisplayed(display(text)) == text
    assert unquoted(display(text).replace('"', '\\"')) == text


@pytest.mark.parametrize(
    "text",
    [
        "\\",
        "a\\",
        "\\a",
        "\\x41",
        "\\u12",
        "\\uD83D\\uDE00",
        "\\ud83d",
        "\\ud83dx",
        "\\udc00",
        "\\udc7f",
        "\\ude00",
        "\\\\\\",
        "\n",
        "\x1b",
        "\udcff",
        "\u202e",
    ],
)
def test_what_display_never_writes(text: str) -> None:
    for read in undisplayed, unquoted:
        with pytest.raises(ValueError):
            read(text)


def test_quote() -> None:
    assert unquoted('a\\"b') == 'a"b'
    assert undisplayed('a"b') == 'a"b'
    with pytest.raises(ValueError):
        undisplayed('a\\"b')

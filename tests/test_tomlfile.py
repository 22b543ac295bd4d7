# SPDX-License-Identifier: MIT
"""TOML files of people: bounds and places."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.errors import UsageError
from pyegress.tomlfile import FILE_BYTES, read


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a = 1\nb = \n", "x:2: not TOML: invalid value"),
        (b"a = '\xff'", "x:1: must be UTF-8"),
        (b"#" * (FILE_BYTES + 1), "x: must be at most 1M"),
        (b"a = " + b"[" * 100_000, "x: not TOML: "),
    ],
)
def test_mistakes(tmp_path: Path, raw: bytes, message: str) -> None:
    """One line that begins with where."""
    file = tmp_path / "file"
    file.write_bytes(raw)
    with pytest.raises(UsageError) as raised:
        read(str(file), "x")
    assert str(raised.value).startswith(message)


def test_content_and_text(tmp_path: Path) -> None:
    """Both are there, so that who wants lines can find them."""
    file = tmp_path / "file"
    file.write_text("a = [1, 2]\n")
    assert read(str(file), "x") == ("a = [1, 2]\n", {"a": [1, 2]})

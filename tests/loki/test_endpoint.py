# SPDX-License-Identifier: MIT
"""URLs and passwords, which no message repeats."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.loki.endpoint import PASSWORD_VARIABLE, Address, address, headers, password


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://loki:3100", "http://loki:3100"),
        ("https://loki/", "https://loki"),
        ("http://loki:3100/loki/api/v1/push", "http://loki:3100"),
        ("http://[::1]:9428/insert/", "http://[::1]:9428/insert"),
        ("HTTP://Loki", "http://loki"),
    ],
)
def test_url(text: str, url: str) -> None:
    """The push path is added later, so it is taken off where it was given."""
    assert address(text) == Address(url, "", "")


def test_user_and_password_in_the_url() -> None:
    """Taken out, %XX decoded."""
    assert address("https://me:s%40e%3Acret@loki:1/p") == Address("https://loki:1/p", "me", "s@e:cret")


@pytest.mark.parametrize(
    "text",
    [
        "loki:3100",
        "ftp://me:hush@loki",
        "http://",
        "http://me:hush@",
        "http://me:hush@l:port",
        "http://me:hush@l/?a",
        "http://me:hush@l/ b",
        "http://me:hush@l\n",
        "http://me:hush@é",
        "http://me:hush@[::1",
        "http://me:hush@l:70000",
    ],
)
def test_wrong_url(text: str) -> None:
    """Said without the password."""
    with pytest.raises(ValueError, match="^url: ") as raised:
        address(text)
    assert "hush" not in str(raised.value)


def test_password(tmp_path: Path) -> None:
    """A file, an option, the URL; the environment where nothing else is."""
    file = tmp_path / "pass"
    file.write_bytes(b"of\xff file\r\n")
    environment = {PASSWORD_VARIABLE: "of environment"}
    assert password("", str(file), "", environment) == "of\udcff file"
    assert password("given", "", "", environment) == "given"
    assert password("", "", "of url", environment) == "of url"
    assert password("", "", "", environment) == "of environment"
    assert password("", "", "", {}) == ""


def test_password_file_is_missing(tmp_path: Path) -> None:
    """An error with its name."""
    with pytest.raises(OutputError, match="^loki: cannot read pass-file .*/no: No such file or directory$"):
        password("", str(tmp_path / "no"), "", {})


def test_headers() -> None:
    """Basic authentication in UTF-8, bytes as they were; a tenant where there is one."""
    assert headers("", "unused", "") == {"User-Agent": "pyegress"}
    found = headers("me", "é\udcff", "team")
    assert base64.b64decode(found["Authorization"].removeprefix("Basic ")) == "me:é".encode() + b"\xff"
    assert found["X-Scope-OrgID"] == "team"

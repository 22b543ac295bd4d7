# SPDX-License-Identifier: MIT
"""Where Loki is and who asks: its URL without the password that may be in it, and the headers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pyegress.errors import OutputError
from pyegress.escape import display

PASSWORD_VARIABLE = "PYEGRESS_LOKI_PASS"
PUSH = "/loki/api/v1/push"


class Address(NamedTuple):
    """What a URL says."""

    url: str
    """Without user and password, and without a slash or `/loki/api/v1/push` at the end."""
    user: str
    password: str


def address(text: str) -> Address:
    """Take a URL apart; ValueError, which never repeats it, says what is wrong."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("url: must be ASCII without spaces: write other characters as %XX")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("url: not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "url: must be http://HOST:PORT or https://HOST:PORT, with the path that Loki has there"
        )
    if parts.query or parts.fragment:
        raise ValueError("url: must end with the path, without ? or #")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = host if port is None else f"{host}:{port}"
    path = parts.path.rstrip("/").removesuffix(PUSH).rstrip("/")
    return Address(
        f"{parts.scheme}://{place}{path}", unquote(parts.username or ""), unquote(parts.password or "")
    )


def password(given: str, file: str, in_url: str, environment: Mapping[str, str]) -> str:
    """The one that is set, the environment last; OutputError where the file can't be read."""
    if file:
        try:
            return Path(file).read_text("utf-8", "surrogateescape").rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise OutputError(f"loki: cannot read pass-file {display(file)}: {why}") from error
    return given or in_url or environment.get(PASSWORD_VARIABLE, "")


def headers(user: str, password: str, orgid: str) -> dict[str, str]:
    """Who asks, for every request."""
    found = {"User-Agent": "pyegress"}
    if user:
        both = f"{user}:{password}".encode("utf-8", "surrogateescape")
        found["Authorization"] = f"Basic {base64.b64encode(both).decode()}"
    if orgid:
        found["X-Scope-OrgID"] = orgid
    return found

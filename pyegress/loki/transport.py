# SPDX-License-Identifier: MIT
"""One HTTP connection to Loki that is kept, and what its answers mean for a batch."""

from __future__ import annotations

import enum
import http.client
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import NamedTuple

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, TimeoutError

from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.loki.endpoint import PUSH
from pyegress.ownports import reserve

MOST_RETRY_AFTER_S = 3600.0
_REFUSALS = (400, 413, 422)
"""Answers about this very batch, which would be the same another time."""
_WAITING = (429, 503)
_ANSWER_BYTES = 65536
_SHOWN = 200
_CAUSES = 10


class Verdict(enum.Enum):
    """What became of a batch."""

    DELIVERED = enum.auto()
    REFUSED = enum.auto()
    FAILED = enum.auto()
    """Not delivered as far as is known: it can be tried again."""


class Answer(NamedTuple):
    """The verdict, why, and how long the server asked to wait, in seconds."""

    verdict: Verdict
    reason: str = ""
    retry_after_s: float = 0.0


class _Connection(urllib3.connection.HTTPConnection):
    """From a port that inputs know to be ours, a new one each time."""

    def connect(self) -> None:
        self.source_address = ("", reserve())
        super().connect()


class _SecureConnection(urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        self.source_address = ("", reserve())
        super().connect()


class Transport:
    """For one thread."""

    def __init__(self, url: str, headers: dict[str, str], ca_file: str) -> None:
        """OutputError where `ca_file` can't be used; nothing is sent yet."""
        self._path = f"{urllib3.util.parse_url(url).path or ''}{PUSH}"
        pushed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        secure = {"ssl_context": _tls(ca_file)} if url.startswith("https:") else {}
        self._pool = urllib3.connection_from_url(url, maxsize=1, headers=headers | pushed, **secure)
        self._pool.ConnectionCls = _SecureConnection if secure else _Connection

    def push(self, body: bytes, timeout_s: float) -> Answer:
        """Send a batch; every failure is an answer. The timeout is for each step: connecting, sending, answering."""
        try:
            response = self._pool.urlopen(
                "POST",
                self._path,
                body,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(timeout_s),
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            return Answer(Verdict.FAILED, _reason(error, timeout_s))
        # From here on the answer counts, whether or not all of its text comes.
        try:
            text = response.read(_ANSWER_BYTES)
        except (HTTPError, http.client.HTTPException, OSError, ValueError):
            text = b""
        # Without effect on a connection that was given back as its answer was read whole.
        response.close()
        return _answer(response, text)

    def close(self) -> None:
        """Let go of the connection."""
        self._pool.close()


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else _reason(error, 0)
        raise OutputError(f"loki: cannot use ca-file {display(ca_file)}: {why}") from error


def _answer(response: urllib3.BaseHTTPResponse, text: bytes) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer(Verdict.DELIVERED)
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    said = display(text[: 4 * _SHOWN].decode(errors="surrogateescape").strip())[:_SHOWN]
    reason = f"it answered {status}{phrase}" + (f": {said}" if said else "")
    if status in _REFUSALS:
        return Answer(Verdict.REFUSED, reason)
    return Answer(Verdict.FAILED, reason, _retry_after_s(response) if status in _WAITING else 0.0)


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float:
    try:
        asked = urllib3.Retry().get_retry_after(response)
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
    return min(max(asked or 0.0, 0.0), MOST_RETRY_AFTER_S)


def _reason(error: BaseException, timeout_s: float) -> str:
    """The innermost cause, as urllib3's own texts show addresses of objects."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {display(cause.verify_message)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {display(cause.reason or str(cause))}"
        if isinstance(cause, OSError) and cause.strerror:
            return display(cause.strerror)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return f"no answer in {timeout_s:.3g} s"
    return display(str(causes[-1]))[:_SHOWN]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """It, and what it came from, at most some."""
    following: BaseException | None = error
    for _ in range(_CAUSES):
        if following is None:
            return
        yield following
        inner = following.args[-1] if following.args else None
        following = (
            inner if isinstance(inner, BaseException) else following.__cause__ or following.__context__
        )

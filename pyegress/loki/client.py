# SPDX-License-Identifier: MIT
"""One HTTP connection to Loki that is kept, and what its failures are called."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    IncompleteRead,
    InvalidHeader,
    NameResolutionError,
    NewConnectionError,
    TimeoutError,
)

from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.loki.endpoint import PASSWORD_VARIABLE, address, headers, password
from pyegress.loki.options import EndpointOptions
from pyegress.loki.resolve import addresses
from pyegress.ownports import reserve

MOST_RETRY_AFTER_S = 3600.0
_WAITING = (429, 503)
_SHOWN = 200
_CAUSES = 10
_RESOLVE_S = 10.0


class Unanswered(Exception):
    """No answer, or only a part of one; its text says why."""


class _Connection(urllib3.connection.HTTPConnection):
    """From a port that inputs know to be ours, a new one each time, as is the one that DNS is asked from."""

    def _new_conn(self) -> socket.socket:
        host = self._dns_host
        try:
            found = addresses(host.strip("[]"), self.timeout or _RESOLVE_S)
        except OSError as error:
            raise NameResolutionError(host, self, error) from error  # type: ignore[arg-type]  # any OSError will do
        try:
            for address in found:
                self._dns_host, self.source_address = address, ("", reserve())
                try:
                    return super()._new_conn()
                except HTTPError:
                    if address == found[-1]:
                        raise
            raise NewConnectionError(self, "it has no address")
        finally:
            self._dns_host = host


class _SecureConnection(_Connection, urllib3.connection.HTTPSConnection):
    pass


class Client:
    """For one thread."""

    def __init__(self, options: EndpointOptions) -> None:
        """OutputError where a password is missing, or a file can't be used; nothing is sent yet."""
        where = address(options.url)
        user = options.user or where.user
        secret = password(options.password, options.pass_file, where.password, os.environ)
        if user and not secret:
            raise OutputError(
                f"loki: user {display(user)} has no password; give pass-file or {PASSWORD_VARIABLE}"
            )
        self.url = where.url
        """Without user and password."""
        self._path = urllib3.util.parse_url(where.url).path or ""
        secure = {"ssl_context": _tls(options.ca_file)} if where.url.startswith("https:") else {}
        who = headers(user, secret, options.orgid)
        self._pool = urllib3.connection_from_url(where.url, maxsize=1, headers=who, **secure)
        self._pool.ConnectionCls = _SecureConnection if secure else _Connection

    def ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, of which the head has come; the path goes on where the URL ends. Raises Unanswered.

        The timeout is for each step: connecting, sending, each piece of the answer.
        """
        try:
            return self._pool.urlopen(
                method,
                self._path + path,
                body,
                headers={**(self._pool.headers or {}), **(headers or {})},
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(timeout_s),
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise Unanswered(_reason(error, timeout_s)) from error

    def close(self) -> None:
        """Let go of the connection."""
        self._pool.close()


def text_of(response: urllib3.BaseHTTPResponse, most_bytes: int, timeout_s: float) -> bytes:
    """The text of an answer, at most so much of it. Raises Unanswered where a part is missing."""
    pieces, left = [], most_bytes
    try:
        while left > 0 and (piece := response.read(left, decode_content=True)):
            pieces.append(piece)
            left -= len(piece)
    except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        raise Unanswered(_reason(error, timeout_s)) from error
    finally:
        # Without effect on a connection that was given back as its answer was read whole.
        response.close()
    return b"".join(pieces)


def said(response: urllib3.BaseHTTPResponse, text: bytes) -> str:
    """What it answered, in words for people."""
    try:
        phrase = f" {HTTPStatus(response.status).phrase}"
    except ValueError:
        phrase = ""
    shown = display(text[: 4 * _SHOWN].decode(errors="surrogateescape").strip())[:_SHOWN]
    return f"it answered {response.status}{phrase}" + (f": {shown}" if shown else "")


def retry_after_s(response: urllib3.BaseHTTPResponse) -> float:
    """How long the server asks to wait, in seconds; 0 where it doesn't."""
    if response.status not in _WAITING:
        return 0.0
    try:
        asked = urllib3.Retry().get_retry_after(response)
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
    return min(max(asked or 0.0, 0.0), MOST_RETRY_AFTER_S)


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else _reason(error, 0)
        raise OutputError(f"loki: cannot use ca-file {display(ca_file)}: {why}") from error


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
        if isinstance(cause, IncompleteRead | http.client.IncompleteRead | DecodeError):
            return "its answer ends early"
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

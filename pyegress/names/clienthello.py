# SPDX-License-Identifier: MIT
"""A TLS ClientHello (RFC 8446, 4.1.2) -> the server name in it (RFC 6066, 3), whatever the bytes.

Own code: libraries that take packets apart (dpkt, scapy) bring all of their protocols, for these few lengths.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import dns.exception
import dns.name

from pyegress.names.message import MalformedError, text_of

MOST_BYTES = 16_384
"""A record of TLS has no more, and no client sends half of it."""
HEADER_BYTES = 4
_CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 1, 0, 0
_VERSION_AND_RANDOM = 2 + 32


class _Reader:
    """Takes vectors, each behind its length, off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise MalformedError("malformed")
        found, self._at = self._data[self._at : end], end
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def vector(self, length_bytes: int) -> _Reader:
        return _Reader(self.take(self.number(length_bytes)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)


def length_of(handshake: bytes) -> int:
    """Bytes of the whole message, of which at least HEADER_BYTES are given; MalformedError where it is another one."""
    length = HEADER_BYTES + int.from_bytes(handshake[1:HEADER_BYTES], "big")
    if handshake[0] != _CLIENT_HELLO or length > MOST_BYTES:
        raise MalformedError("malformed")
    return length


def server_name(handshake: bytes) -> str | None:
    """The name in a whole message, in lower case and as text; None where there is none. MalformedError otherwise."""
    length = length_of(handshake) if len(handshake) >= HEADER_BYTES else 0
    if not HEADER_BYTES < length <= len(handshake):
        raise MalformedError("malformed")
    hello = _Reader(handshake[HEADER_BYTES:length])
    hello.take(_VERSION_AND_RANDOM)
    for length_bytes in (1, 2, 1):  # session, ciphers, compressions
        hello.vector(length_bytes)
    if not hello:
        return None
    extensions = hello.vector(2)
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            return _name_in(body)
    return None


def _name_in(body: _Reader) -> str | None:
    names = body.vector(2)
    while names:
        kind, name = names.number(1), names.vector(2).rest()
        if kind == _HOST_NAME:
            return _text_of(name)
    return None


def _text_of(name: bytes) -> str | None:
    if not name:
        raise MalformedError("malformed")
    with suppress(ValueError):
        # Not allowed there, and said by some all the same: it tells nothing.
        ip_address(name.decode("ascii"))
        return None
    try:
        return text_of(dns.name.Name([*name.removesuffix(b".").split(b"."), b""]))
    except dns.exception.DNSException as error:
        raise MalformedError("malformed") from error

# SPDX-License-Identifier: MIT
"""Addresses as C gives them -> text."""

from __future__ import annotations

import socket

ADDRESSES_KEPT = 8192


class Addresses(dict[bytes, str | None]):
    """16 bytes -> text, an IPv4-mapped address as IPv4, the unspecified one as None."""

    def __missing__(self, packed: bytes) -> str | None:
        if len(self) >= ADDRESSES_KEPT:
            self.clear()
        text: str | None
        if packed.startswith(b"\0" * 10 + b"\xff\xff"):
            text = socket.inet_ntop(socket.AF_INET, packed[12:])
        else:
            text = socket.inet_ntop(socket.AF_INET6, packed)
        if text in ("0.0.0.0", "::"):
            text = None
        self[packed] = text
        return text

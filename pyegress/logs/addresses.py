# SPDX-License-Identifier: MIT
"""Destinations as text, checked, because logs may have been edited."""

from __future__ import annotations

import socket


def ip_version(address: str) -> int:
    """4 or 6; an IPv6 address may have a zone. ValueError where it is no address."""
    bare, _, zone = address.partition("%")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        socket.inet_pton(family, bare)
    except (OSError, UnicodeError):
        raise ValueError("not an address") from None
    if bare != address and (not zone or family == socket.AF_INET):
        raise ValueError("not an address")
    return 6 if family == socket.AF_INET6 else 4

# SPDX-License-Identifier: MIT
"""Resolvers that this host is configured to ask, and whom a local one among them asks in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pyegress.rules.addresses import Network, target_of

RESOLV_CONF = Path("/etc/resolv.conf")
UPSTREAM = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
    Path("/run/dnsmasq/resolv.conf"),
)
"""Where systemd-resolved, and the dnsmasq of NetworkManager and of resolvconf, find theirs."""
LOOK_NS = 1_000_000_000
"""How often to read the files again: a laptop has other resolvers in each network."""
MOST_BYTES = 1 << 16
_LOCAL = Network(4, 0x7F000001, 32)
"""Where resolv.conf(5) has names asked for if it names nobody."""
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Servers:
    """Contains their addresses as 16 bytes, IPv4 mapped. For one thread."""

    def __init__(
        self,
        fixed: Sequence[Network] = (),
        path: Path | None = None,
        upstream: Sequence[Path] | None = None,
    ) -> None:
        """`fixed`: these alone, whatever the files say."""
        self._packed = frozenset(map(_packed, fixed))
        self._is_fixed = bool(fixed)
        self._path = path or RESOLV_CONF
        self._upstream = UPSTREAM if upstream is None else upstream
        self._next_look_ns = 0

    def __contains__(self, packed: object) -> bool:
        if not self._is_fixed and (now_ns := time.monotonic_ns()) >= self._next_look_ns:
            self._next_look_ns = now_ns + LOOK_NS
            self._packed = frozenset(map(_packed, self._configured()))
        return packed in self._packed

    def _configured(self) -> list[Network]:
        found = _read(self._path) or [_LOCAL]
        if any(_is_loopback(each) for each in found):
            for path in self._upstream:
                found += _read(path)
        return found


def _read(path: Path) -> list[Network]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    lines = (line.split() for line in text.splitlines())
    targets = (target_of(words[1]) for words in lines if len(words) > 1 and words[0] == "nameserver")
    return [target.network for target in targets if target is not None]


def _is_loopback(address: Network) -> bool:
    return address.first >> 24 == 127 if address.family == 4 else address.first == 1


def _packed(address: Network) -> bytes:
    if address.family == 4:
        return _MAPPED + address.first.to_bytes(4, "big")
    return address.first.to_bytes(16, "big")

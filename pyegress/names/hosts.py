# SPDX-License-Identifier: MIT
"""Names that /etc/hosts gives an address."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path

HOSTS = Path("/etc/hosts")
LOOK_NS = 1_000_000_000
"""How often to see whether it has changed."""
MOST_BYTES = 8 << 20
"""Lists of what to block are some MB; none of it is an address that anybody connects to."""
MOST_OF_ADDRESS = 8
_BLOCKED = ("0.0.0.0", "::")


class Hosts:
    """For one thread."""

    def __init__(self, path: Path | None = None) -> None:
        self.cut = False
        """There is more in the file than is read."""
        self._path = path or HOSTS
        self._state: tuple[int, int, int] | None = None
        self._next_look_ns = 0
        self._names: dict[str, tuple[str, ...]] = {}

    def names(self, address: str) -> tuple[str, ...]:
        """Of an address as Python writes it, in the order of the file."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_look_ns:
            self._next_look_ns = now_ns + LOOK_NS
            self._look()
        return self._names.get(address, ())

    def _look(self) -> None:
        try:
            found = self._path.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state == self._state:
                return
            with self._path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except OSError:
            self._state, self._names = None, {}
            return
        self._state = state
        self.cut = len(text) > MOST_BYTES
        # A line that is not whole may have half a name.
        self._names = _read(text[:MOST_BYTES].rpartition(b"\n")[0] if self.cut else text)


def _read(text: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        words = line.partition("#")[0].split()
        if len(words) < 2 or words[0] in _BLOCKED:
            continue
        try:
            address = str(ip_address(words[0]))
        except ValueError:
            continue
        known = found.get(address, ())
        if len(known) < MOST_OF_ADDRESS:
            names = (name.lower().rstrip(".").replace(",", "\\044") for name in words[1:])
            found[address] = tuple(dict.fromkeys((*known, *names)))[:MOST_OF_ADDRESS]
    return found

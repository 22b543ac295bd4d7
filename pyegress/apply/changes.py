# SPDX-License-Identifier: MIT
"""Whether somebody has loaded or removed rules or sets of nft (iptables-nft's too), as the kernel tells it.

libnftables doesn't tell; `nft monitor` would list each rule of each change.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from pyegress.errors import UnsupportedError

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP = 12, 270, 1, 7
_SUBSYSTEM = 10
# linux/netfilter/nf_tables.h: tables, rules and sets, made and deleted. Elements are what we add ourselves.
_MADE_OR_DELETED = frozenset((0, 2, 6, 8, 9, 11))
_HEADER = struct.Struct("=IHHII")
_FAMILY_BYTES = 4
_ATTRIBUTE = struct.Struct("=HH")
_TABLE = 1
"""The attribute that names the table, in messages of all three."""
_IPTABLES = b"filter"
_DATAGRAM_BYTES = 1 << 16
_ALIGNED = 4


class Changes:
    """Listens from construction until `close`. For one thread."""

    def __init__(self, table: str) -> None:
        """`table`: of nft; that of iptables counts too."""
        self._tables = {table.encode(), _IPTABLES}
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                _NETLINK_NETFILTER,
            )
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as error:
            raise UnsupportedError(f"netlink: changes of rules: {error.strerror}") from error

    def fileno(self) -> int:
        """Readable when something has come."""
        return self._socket.fileno()

    def happened(self) -> bool:
        """Whether there were any since the last time, or so many that nobody knows."""
        found = False
        while True:
            try:
                datagram, sender = self._socket.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                return found
            except OSError:  # the buffer was full
                found = True
                continue
            # Only the kernel is believed.
            found = found or (sender[0] == 0 and any(table in self._tables for table in changed(datagram)))

    def close(self) -> None:
        """Let go."""
        self._socket.close()


def changed(datagram: bytes) -> Iterator[bytes]:
    """Names of the tables in which rules or sets were made or deleted."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        end = min(at + length, len(datagram))
        if kind >> 8 == _SUBSYSTEM and kind & 0xFF in _MADE_OR_DELETED:
            place = at + _HEADER.size + _FAMILY_BYTES
            while place + _ATTRIBUTE.size <= end:
                size, attribute = _ATTRIBUTE.unpack_from(datagram, place)
                if attribute == _TABLE:
                    yield datagram[place + _ATTRIBUTE.size : place + size].rstrip(b"\0")
                    break
                place += _whole(max(size, _ATTRIBUTE.size))
        at += _whole(max(length, _HEADER.size))


def _whole(size: int) -> int:
    return (size + _ALIGNED - 1) // _ALIGNED * _ALIGNED

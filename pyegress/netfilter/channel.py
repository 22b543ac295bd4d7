# SPDX-License-Identifier: MIT
"""The netlink socket of one log group or queue: requests out, datagrams in, what was lost counted."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from pyegress.netfilter.holder import Kind, failure

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
"""SK_MEMINFO_DROPS of linux/sock_diag.h is the last."""
DATAGRAM_BYTES = 1 << 14
"""More than one packet's message with all attributes; a longer one is cut and counted as malformed."""
DATAGRAMS = 1024
"""Most that are taken at once, so that the reader can look around."""


class Channel:
    """For one thread. Raises InputError or UnsupportedError with the cause."""

    def __init__(self, kind: Kind, number: int, buffer_bytes: int) -> None:
        self._kind = kind
        self._number = number
        self._early: list[bytes] = []
        self.overruns = 0
        """How often the receive buffer was full."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
        except OSError as error:
            raise failure(kind, number, error.errno or 0) from error
        try:
            # Connected, it takes nothing from other processes.
            self._socket.connect((0, 0))
            _set_buffer(self._socket, buffer_bytes)
        except OSError as error:
            self._socket.close()
            raise failure(kind, number, error.errno or 0) from error
        self._socket.setblocking(False)

    @classmethod
    def bound(cls, kind: Kind, number: int, buffer_bytes: int, request: bytes) -> Channel:
        """One that is bound by a request of sequence 1, or closed again and the error raised."""
        channel = cls(kind, number, buffer_bytes)
        try:
            channel.ask(request, 1)
        except BaseException:
            channel.close()
            raise
        return channel

    @property
    def drops(self) -> int:
        """Messages that found the receive buffer full, as the kernel counts them."""
        try:
            found = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return 0
        drops: int = _MEMINFO.unpack(found)[-1]
        return drops

    def fileno(self) -> int:
        """Readable when something has come."""
        return self._socket.fileno()

    def ask(self, request: bytes, sequence: int) -> None:
        """Send a request of that sequence number and raise what it failed for."""
        from pyegress.netfilter import requests

        try:
            self._socket.send(request)
        except OSError as error:
            raise failure(self._kind, self._number, error.errno or 0) from error
        early: list[bytes] = []
        code = errno.EAGAIN
        # The kernel has answered when `send` returns, maybe after the first packets.
        for datagram in self.datagrams():
            answer = requests.answer(datagram, sequence)
            if answer is not None:
                code = answer
                break
            early.append(datagram)
        self._early = early
        if code:
            raise failure(self._kind, self._number, code)

    def tell(self, message: bytes | bytearray) -> bool:
        """Send without waiting for an answer; whether the kernel took it."""
        try:
            self._socket.send(message)
        except OSError:
            return False
        return True

    def datagrams(self) -> Iterator[bytes]:
        """What has come, at most DATAGRAMS of it."""
        while self._early:
            yield self._early.pop(0)
        receive = self._socket.recv
        for _ in range(DATAGRAMS):
            try:
                yield receive(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise failure(self._kind, self._number, error.errno or 0) from error
                self.overruns += 1

    def close(self) -> None:
        """Unbind, as the kernel does with a socket that is closed."""
        self._socket.close()


def _set_buffer(own: socket.socket, size_bytes: int) -> None:
    """Beyond net.core.rmem_max where we may."""
    try:
        own.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size_bytes)
    except PermissionError:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

# SPDX-License-Identifier: MIT
"""Inputs by packets: a group or queue that nobody has is bound, a capture opened, an own socket asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from typing import Protocol

from pyegress.attribute.sockets import MAPPED, Query, SocketTable
from pyegress.device import Device
from pyegress.doctor.finding import Finding, of_error
from pyegress.doctor.rights import is_there
from pyegress.errors import EgressError, InputError, UnsupportedError
from pyegress.netfilter.log import LogGroup
from pyegress.netfilter.queue import Queue

LOOKED_AT = 64
"""How many numbers are tried before we give up."""
LAST = 65535
_BUFFER_BYTES = 1 << 16
_HERE = "127.0.0.1"


class _Bound(Protocol):
    def close(self) -> None: ...


def nflog(name: str) -> Finding:
    """Bind the first group that nobody has, and unbind it."""
    return _bind(name, "group", range(LOOKED_AT), lambda number: LogGroup(number, _BUFFER_BYTES))


def nfqueue(name: str) -> Finding:
    """The same with a queue. From the last: packets that rules hand to it in that moment would be dropped."""
    numbers = range(LAST, LAST - LOOKED_AT, -1)
    return _bind(name, "queue", numbers, lambda number: Queue(number, 1, _BUFFER_BYTES, fail_open=True))


def pcap(name: str) -> Finding:
    """Open a capture on all devices, and close it."""
    try:
        Device("any", _BUFFER_BYTES).close()
    except EgressError as error:
        return of_error(name, error)
    return Finding(name, "works", "a capture on any device can be opened")


def sock_diag_tcp(name: str) -> Finding:
    """Ask for a connected socket of ours."""
    try:
        with (
            socket.create_server((_HERE, 0)) as server,
            socket.create_connection(server.getsockname()) as own,
        ):
            return _ask(name, socket.IPPROTO_TCP, own, server.getsockname()[1])
    except OSError as error:
        return _no_loopback(name, error)


def sock_diag_udp(name: str) -> Finding:
    """Ask for a bound socket of ours."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((_HERE, 0))
            return _ask(name, socket.IPPROTO_UDP, own, None)
    except OSError as error:
        return _no_loopback(name, error)


def _bind(name: str, noun: str, numbers: Iterable[int], bind: Callable[[int], _Bound]) -> Finding:
    refused: list[EgressError] = []
    for number in numbers:
        try:
            bind(number).close()
        except InputError as error:
            refused.append(error)
        except UnsupportedError as error:
            refused.append(error)
            # Whoever may not read in /proc which are in use is told the same of those.
            if not is_there("CAP_NET_ADMIN"):
                break
        else:
            taken = [one for one in refused if isinstance(one, InputError)]
            others = "".join(f"; {of_error(name, one).detail}" for one in taken)
            return Finding(name, "works", f"{noun} {number} can be had{others}")
    return of_error(name, refused[0])


def _ask(name: str, protocol: int, own: socket.socket, dport: int | None) -> Finding:
    here = MAPPED + socket.inet_aton(_HERE)
    try:
        table = SocketTable()
    except UnsupportedError as error:
        return of_error(name, error)
    try:
        found = table.find(Query(4, protocol, here, here, own.getsockname()[1], dport))
    finally:
        table.close()
    if os.fstat(own.fileno()).st_ino in {one.inode for one in found}:
        return Finding(name, "works", "tells whose socket it is")
    return Finding(
        name, "fails", "the kernel doesn't tell of a socket of ours", "use another kernel, or eBPF"
    )


def _no_loopback(name: str, error: OSError) -> Finding:
    return Finding(name, "unknown", f"no socket on {_HERE}: {error.strerror}", "ip link set lo up")

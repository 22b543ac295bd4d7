# SPDX-License-Identifier: MIT
"""Sockets of other network namespaces, for packets that the host only forwards: those of containers and `ip netns`.

A namespace can have sent a packet if the packet's source address is one of its own. It is entered by a thread that
ends after that; nothing of it stays open, because that would keep it from being removed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Thread

from pyegress.attribute.sockets import MAPPED, Query, Socket, SocketTable
from pyegress.errors import UnsupportedError

MOUNTED = (Path("/run/netns"), Path("/var/run/docker/netns"))
ADDRESSES_NS = 1_000_000_000
"""Addresses of a namespace are read again after this time."""
STRANGER_NS = 5_000_000_000
"""For so long an address that no namespace has isn't looked for again: on a router that is most of them."""
_STRANGERS = 4096
_CLONE_NEWNET = 0x4000_0000


class Namespaces:
    """`find` is for one thread, `search` for another one at the same time."""

    def __init__(self, root: Path = Path("/proc"), mounted: Sequence[Path] = MOUNTED) -> None:
        self._root = str(root)
        self._mounted = mounted
        self._own = self._inode(f"{self._root}/thread-self/ns/net")
        self._addresses: dict[int, tuple[int, frozenset[bytes]]] = {}
        """When they were read, and which they were, by the namespace's inode number."""
        self._strangers: dict[bytes, int] = {}

    def is_stranger(self, address: bytes) -> bool:
        """Whether no namespace had the address a moment ago."""
        return time.monotonic_ns() < self._strangers.get(address, 0)

    def search(self, queries: Sequence[Query]) -> list[list[list[Socket]]]:
        """For each query, what each namespace with its source address has: none, or all that can have sent it."""
        found: list[list[list[Socket]]] = [[] for _ in queries]
        if queries:
            thread = Thread(target=self._visit_all, args=(queries, found), name="namespaces")
            thread.start()
            thread.join()
        now_ns = time.monotonic_ns()
        for query, owners in zip(queries, found, strict=True):
            if not owners:
                self._strangers[query.src] = now_ns + STRANGER_NS
        for address in list(self._strangers)[:-_STRANGERS]:
            self._strangers.pop(address, None)
        return found

    def _visit_all(self, queries: Sequence[Query], found: list[list[list[Socket]]]) -> None:
        """In a thread of its own, which is in another namespace from here on."""
        from pyroute2 import netns
        from pyroute2.netlink.exceptions import NetlinkError

        seen: dict[int, frozenset[bytes]] = {}
        for path in self._paths(seen):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                inode = os.fstat(file).st_ino
                if inode not in seen and inode != self._own:
                    netns.setns(file, _CLONE_NEWNET)
                    seen[inode] = self._addresses_here(inode)
                    self._ask_here(seen[inode], queries, found)
            except (OSError, UnsupportedError, NetlinkError):
                continue
            finally:
                os.close(file)
        self._addresses = {inode: known for inode, known in self._addresses.items() if inode in seen}

    def _ask_here(
        self, addresses: frozenset[bytes], queries: Sequence[Query], found: list[list[list[Socket]]]
    ) -> None:
        mine = [number for number, query in enumerate(queries) if query.src in addresses]
        if not mine:
            return
        table = SocketTable()
        try:
            for number in mine:
                # The interface is one of the host's, and the owner is known only where the socket is.
                found[number].append(table.find(queries[number]._replace(ifindex=0)))
        finally:
            table.close()

    def _addresses_here(self, inode: int) -> frozenset[bytes]:
        now_ns = time.monotonic_ns()
        read_ns, addresses = self._addresses.get(inode, (0, frozenset()))
        if not read_ns or now_ns - read_ns > ADDRESSES_NS:
            addresses = frozenset(_local_addresses())
            self._addresses[inode] = now_ns, addresses
        return addresses

    def _paths(self, seen: Container[int]) -> Iterator[str]:
        """Each namespace until it is seen, as a process may end first: those of processes, and those without any."""
        for name in os.listdir(self._root):  # noqa: PTH208 (speed)
            path = f"{self._root}/{name}/ns/net"
            if name.isdigit() and (inode := self._inode(path)) not in (0, self._own) and inode not in seen:
                yield path
        for folder in self._mounted:
            try:
                yield from map(str, folder.iterdir())
            except OSError:
                continue

    def _inode(self, path: str) -> int:
        try:
            return int(os.readlink(path)[5:-1])  # noqa: PTH115 (speed)
        except (OSError, ValueError):
            return 0


def _local_addresses() -> Iterable[bytes]:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        for message in route.get_addr():
            # Where both are there, IFA_ADDRESS is the other end's.
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                is_v6 = ":" in text
                packed = socket.inet_pton(socket.AF_INET6 if is_v6 else socket.AF_INET, text)
                yield packed if is_v6 else MAPPED + packed

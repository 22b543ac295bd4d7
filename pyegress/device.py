# SPDX-License-Identifier: MIT
"""Live capture of what may open connections, by libpcap, and the addresses that are this host's."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from socket import AF_INET, AF_INET6
from types import ModuleType
from typing import Any, NamedTuple

from pyegress.errors import InputError, UnsupportedError
from pyegress.escape import display
from pyegress.prefixes import Network, in_networks

SNAPLEN = 256
"""Headers with VLAN tags and extension headers."""
_PIPE_BYTES = 1 << 20
_RECORD_HEADER_BYTES = 16
_TCP_OPENS = "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn"
# libpcap's tcp[] doesn't know IPv6; behind extension headers the reader looks itself.
_TCP_OPENS_6 = "ip6[6] == 6 and ip6[53] & 0x12 == 2"
_EXTENDED_6 = " or ".join(f"ip6[6] == {number}" for number in (0, 43, 44, 51, 60, 135, 139, 140))
_WANTED = f"({_TCP_OPENS}) or udp or (ip6 and (({_TCP_OPENS_6}) or {_EXTENDED_6}))"
# Behind `vlan` all offsets move; a tag may be in the bytes or, taken off by the card, beside them.
TAGGED_FILTER = f"{_WANTED} or (vlan and ({_WANTED} or (vlan and ({_WANTED} or vlan))))"
# Link types for which libpcap can't look behind a tag get all tagged frames.
PLAIN_FILTER = f"{_WANTED} or ether proto 0x8100 or ether proto 0x88a8 or ether proto 0x9100"
_REFRESH_NS = 1_000_000_000
_RTN_LOCAL = 2


class Drops(NamedTuple):
    """What a device's packets were lost for."""

    full: int
    """The buffer was full."""
    interface: int
    """The interface or its driver dropped them."""


class Device:
    """A device that is captured on. Raises InputError or UnsupportedError with the cause."""

    def __init__(self, name: str, buffer_bytes: int) -> None:
        self.name = display(name)
        if name.startswith(("nflog:", "nfqueue:")):
            # libpcap 1.10 takes it for an error when nothing has come from these.
            kind, _, number = self.name.partition(":")
            raise InputError(f"pcap: device {self.name}: use --{kind} {number}")
        self._pcap = pcap = _libpcap()
        self._capture: Any = pcap.create(name)
        try:
            self._capture.set_snaplen(SNAPLEN)
            self._capture.set_immediate_mode(True)
            self._capture.set_buffer_size(buffer_bytes)
            # What has only microseconds, such as netmap, says so.
            with suppress(pcap.Error):
                self._capture.set_tstamp_precision(pcap.TstampPrecision.NANO)
            self._capture.activate()
            self._capture.setnonblock(True)
            self.link_type = int(self._capture.datalink())
            self._set_filter()
        except pcap.Error as error:
            self._capture.close()
            raise self._explained(error) from None
        # libpcap writes what it captured as a file, so that one reader serves both; its bindings' own times are floats.
        self._pipe, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        # Without CAP_SYS_RESOURCE a user's pipes have a limit together.
        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        # So many packets that the pipe always holds them.
        self._at_once = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) // 2 // (SNAPLEN + _RECORD_HEADER_BYTES)
        self._dumper = self._capture.dump_open(f"/proc/self/fd/{writing}")
        os.close(writing)

    def fileno(self) -> int:
        """A descriptor to poll for reading."""
        return int(self._capture.get_selectable_fd())

    def read_into(self, view: memoryview) -> int | None:
        """Put the next bytes of a pcap file that holds what is captured to a view: how many; None: nothing came.

        Raises InputError when the device has gone.
        """
        came = self._piped(view)
        if came is None:
            try:
                self._capture.dispatch(self._at_once, self._dumper.dump)
                self._dumper.flush()
            except self._pcap.Error as error:
                raise self._explained(error) from None
            came = self._piped(view)
        return came

    def drops(self) -> Drops:
        """What was lost since the start."""
        try:
            found = self._capture.stats()
        except self._pcap.Error:
            return Drops(0, 0)
        return Drops(found.drop, found.ifdrop)

    def close(self) -> None:
        """Stop capturing."""
        self._dumper.close()
        self._capture.close()
        os.close(self._pipe)

    def _piped(self, view: memoryview) -> int | None:
        try:
            return os.readv(self._pipe, [view])
        except BlockingIOError:
            return None

    def _set_filter(self) -> None:
        for text in (TAGGED_FILTER, PLAIN_FILTER, _WANTED):
            try:
                # Without a netmask of ours cypcap 0.6 prints the device's on stdout.
                filter_ = self._capture.compile(text, True, self._pcap.NETMASK_UNKNOWN)
            except self._pcap.Error:
                continue
            self._capture.setfilter(filter_)
            return

    def _explained(self, error: Any) -> InputError | UnsupportedError:
        code, text = error.args[0], display(str(error.args[-1]))
        codes = self._pcap.ErrorCode
        if code in (codes.PERM_DENIED, codes.PROMISC_PERM_DENIED):
            return UnsupportedError("pcap: missing CAP_NET_RAW; run as root, for example with sudo")
        if code == codes.NO_SUCH_DEVICE:
            return InputError(f"pcap: no device {self.name}; `ip link` shows them, any is all of them")
        if code == codes.IFACE_NOT_UP:
            return InputError(f"pcap: device {self.name} is down; ip link set {self.name} up")
        return InputError(f"pcap: device {self.name}: {text}")


class HostAddresses:
    """Whether an address is this network namespace's; looks again when it isn't, at most once a second."""

    def __init__(self) -> None:
        self._is_known: Callable[[bytes], bool] = in_networks(_local_networks())
        self._next_look_ns = 0

    def __call__(self, address: bytes) -> bool:
        """16 bytes, IPv4 as ::ffff:a.b.c.d."""
        if self._is_known(address):
            return True
        now_ns = time.monotonic_ns()
        if now_ns < self._next_look_ns:
            return False
        self._next_look_ns = now_ns + _REFRESH_NS
        self._is_known = in_networks(_local_networks())
        return self._is_known(address)


def _local_networks() -> tuple[Network, ...]:
    """What the kernel delivers here: its addresses, and networks that a route of type `local` makes its own."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        return tuple(
            ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
            for message in (*route.get_routes(family=AF_INET), *route.get_routes(family=AF_INET6))
            if message["type"] == _RTN_LOCAL and message.get_attr("RTA_DST")
        )


def _libpcap() -> ModuleType:
    try:
        import cypcap
    except ImportError:
        raise UnsupportedError(
            "pcap: live capture needs the package cypcap: pip install cypcap (from source: libpcap-dev)"
        ) from None
    return cypcap  # type: ignore[no-any-return]

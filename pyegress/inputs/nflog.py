# SPDX-License-Identifier: MIT
"""Connections that netfilter logs to a group: for hosts without eBPF, where rules can be set up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.decode.packet import PacketDecoder, Unreadable
from pyegress.errors import InputError
from pyegress.filters import FilterOptions, RecordFilterOptions
from pyegress.netfilter.log import LogGroup
from pyegress.netfilter.messages import Logged, may_leave
from pyegress.observer import Observer, once_each, sighting_of
from pyegress.options import SizeBytes, keys
from pyegress.plugin import Batch, Context, Input
from pyegress.privileges import LOOKING, Capability

_IPV4_IPV6 = (2, 10)


class NflogOptions(FilterOptions, frozen=True, kw_only=True):
    """Options of the nflog input."""

    group: Annotated[int, Meta(description="group that the rules log to", ge=0, le=65535)] = 0
    buffer: Annotated[
        SizeBytes, Meta(description="receive buffer of the netlink socket", ge=65536, le=1 << 30)
    ] = 8 << 20


class Nflog(Input):
    """The input; see NflogOptions."""

    name: ClassVar[str] = "nflog"
    summary: ClassVar[str] = (
        "packets that iptables' NFLOG target or nft's `log group` copies here, with their processes by sock_diag "
        "(rules: `pyegress rules-for nflog`)"
    )
    Options: ClassVar[type[plugin.Options]] = NflogOptions
    changeable: ClassVar[frozenset[str]] = frozenset(keys(RecordFilterOptions))
    # SYS_ADMIN: to look into other network namespaces. NET_ADMIN: to unbind the group before the rest of it is read.
    capabilities = LOOKING | {Capability.SYS_ADMIN, Capability.NET_ADMIN}

    def __init__(self, options: NflogOptions) -> None:
        self._options = options
        self._group: LogGroup | None = None
        self._observer: Observer | None = None
        self._stopping = False

    def open(self, context: Context) -> None:
        """Bind the group; raises UnsupportedError or InputError with the cause."""
        self._context = context
        self._notice = once_each(self.name, context)
        self._decoder = PacketDecoder()
        # The group last: what is logged from then on waits for nothing.
        self._observer = Observer(self.name, self._options, context)
        self._group = LogGroup(self._options.group, self._options.buffer)

    def read(self) -> Iterator[Batch]:
        """Batches until `stop`, then what still waits in the socket."""
        group, observer = self._group, self._observer
        if group is None or observer is None:
            raise InputError("nflog: not open")
        yield from observer.batches(
            group.fileno(),
            lambda: self._receive(group, observer),
            lambda: self._stopping,
            lambda: self._receive_rest(group, observer),
        )

    def stop(self) -> None:
        """Make `read` drain and end."""
        self._stopping = True

    def change(self, options: plugin.Options) -> None:
        """Filter by others."""
        assert isinstance(options, NflogOptions)
        self._options = options
        if self._observer is not None:
            self._observer.change(options)

    def close(self) -> None:
        """Unbind."""
        if self._group is not None:
            self._group.close()
            self._group = None
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    def refresh_losses(self) -> None:
        """Counters of the socket into the Losses."""
        group, observer = self._group, self._observer
        if group is None or observer is None:
            return
        put = self._context.losses.put
        put("lost", "nflog: packets that the kernel could not deliver (-I nflog:buffer)", group.gaps)
        put("overruns", "nflog: times that the receive buffer was full", group.overruns)
        put("unreadable", "nflog: malformed netlink messages", group.malformed)
        observer.put_losses()

    def _receive(self, group: LogGroup, observer: Observer) -> int:
        """Take what has come; the monotonic time of that, ns."""
        clock_ns = time.monotonic_ns()
        self._see_all(observer, group.receive(), clock_ns)
        return clock_ns

    def _receive_rest(self, group: LogGroup, observer: Observer) -> None:
        group.stop_filling()
        while packets := group.receive():
            self._see_all(observer, packets, time.monotonic_ns())

    def _see_all(self, observer: Observer, packets: Iterable[Logged], clock_ns: int) -> None:
        now_ns = time.time_ns()
        for logged in packets:
            self._see(observer, logged, clock_ns, now_ns)

    def _see(self, observer: Observer, logged: Logged, clock_ns: int, now_ns: int) -> None:
        if logged.family not in _IPV4_IPV6:
            self._unreadable(f"of address family {logged.family}")
        elif not may_leave(logged):
            self._context.losses.add("skipped", "nflog: packets of a chain that nothing leaves by")
            self._notice(
                "a rule logs PREROUTING or INPUT to this group: log OUTPUT (see `pyegress rules-for nflog`)"
            )
        else:
            packet = self._decoder.decode(logged.payload)
            if isinstance(packet, Unreadable):
                self._unreadable(packet.value)
                return
            observer.see(sighting_of(logged, packet, clock_ns, now_ns))

    def _unreadable(self, why: str) -> None:
        self._context.losses.add("unreadable", f"nflog: packets {why}")
        self._notice(f"packets {why} are counted, not shown")

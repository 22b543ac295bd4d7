# SPDX-License-Identifier: MIT
"""Connections in captured packets: of a device, with their processes, or of a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_network
from socket import if_nametoindex
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.decode.address import ADDRESSES_KEPT
from pyegress.decode.capture import Capture, CaptureFile
from pyegress.decode.packet import RECEIVED, PacketDecoder, Record
from pyegress.device import Device, HostAddresses
from pyegress.directions import Directions
from pyegress.errors import InputError
from pyegress.filters import FilterOptions, RecordFilterOptions
from pyegress.observer import SWEEP_NS, Observer, change_flows
from pyegress.options import Cidr, SizeBytes, keys
from pyegress.packets import TCP, PacketFlows, Sighting
from pyegress.plugin import Batch, Context, Input
from pyegress.prefixes import in_networks
from pyegress.privileges import LOOKING, Capability

LOCAL = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "0.0.0.0/32",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
        "::/128",
        "2001:db8::/32",
    )
)
"""Private, shared, link-local, loopback, none yet (DHCP), and IPv6's for documentation, which laboratories use."""

SWEEPS_IN_WINDOW = 8
"""More would look at each flow too often where windows are long."""
AT_ONCE = 8192
"""Packets of a device, some tenths of a second's work."""
_TELL_SENT = (113, 276)
"""Link types of `any`: Linux cooked capture."""


class PcapOptions(FilterOptions, frozen=True, kw_only=True):
    """Options of the pcap input."""

    device: Annotated[
        str,
        Meta(
            description="network device to capture on; any: all, a packet counts on each that it passes (bond, VLAN)"
        ),
    ] = ""
    file: Annotated[
        str,
        Meta(
            description="capture to read, pcap or pcapng, also gzip or zstd compressed; - for standard input"
        ),
    ] = ""
    local_cidr: Annotated[
        tuple[Cidr, ...],
        Meta(
            description="addresses of the captured host in a file: connections from others are not outbound; "
            "none: what the capture says was sent, or where it doesn't tell, what comes from 10.0.0.0/8, "
            "172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 169.254.0.0/16, fc00::/7, fe80::/10, 2001:db8::/32"
        ),
    ] = ()
    buffer: Annotated[
        SizeBytes, Meta(description="the kernel's buffer for packets of a device", ge=65536, le=1 << 30)
    ] = 8 << 20

    def __post_init__(self) -> None:
        if bool(self.device) == bool(self.file):
            raise ValueError("give either device or file: -I pcap:device:eth0, -I pcap:file:x.pcapng")
        if self.device and self.local_cidr:
            raise ValueError("local-cidr is for files: a device's addresses are known")


class Pcap(Input):
    """The input; see PcapOptions."""

    name: ClassVar[str] = "pcap"
    summary: ClassVar[str] = (
        "new outbound TCP connections and UDP flows in packets of a device, with their processes by sock_diag, or in "
        "a capture file"
    )
    Options: ClassVar[type[plugin.Options]] = PcapOptions
    changeable: ClassVar[frozenset[str]] = frozenset(keys(RecordFilterOptions))
    # SYS_ADMIN: to look into other network namespaces.
    capabilities = LOOKING | {Capability.SYS_ADMIN}

    def __init__(self, options: PcapOptions) -> None:
        self._options = options
        self._source: _FileSource | _DeviceSource | None = None
        self.waits = bool(options.file)

    def open(self, context: Context) -> None:
        """Open the device or file; raises UnsupportedError or InputError with the cause."""
        if self._options.file:
            self._source = _FileSource(self._options, context)
        else:
            self._source = _DeviceSource(self._options, context)

    def read(self) -> Iterator[Batch]:
        """Batches until the end of the file, or `stop`."""
        if self._source is None:
            raise InputError("pcap: not open")
        yield from self._source.read()

    def stop(self) -> None:
        """Make `read` end."""
        if self._source is not None:
            self._source.stopping = True

    def change(self, options: plugin.Options) -> None:
        """Filter by others."""
        assert isinstance(options, PcapOptions)
        self._options = options
        if self._source is not None:
            self._source.change(options)

    def close(self) -> None:
        """Let go."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def refresh_losses(self) -> None:
        """Counters of device, file and filters into the Losses."""
        if self._source is not None:
            self._source.put_losses()


class _FileSource:
    """Reads a file to its end; nothing is looked up, and time is that of the packets."""

    def __init__(self, options: PcapOptions, context: Context) -> None:
        self.stopping = False
        self._options = options
        self._context = context
        self._decoder = PacketDecoder()
        self._flows = PacketFlows(Pcap.name, options, context.losses, recheck_ns=None)
        self._directions = Directions(lru_cache(ADDRESSES_KEPT)(in_networks(options.local_cidr or LOCAL)))
        self._link_layer_tells = not options.local_cidr
        self._others = 0
        self._clock_ns = 0
        self._came_ns = time.monotonic_ns()
        self._swept_ns = 0
        self._sweep_after_ns = max(SWEEP_NS, options.window // SWEEPS_IN_WINDOW)
        self._interface = -1
        self._ifname: str | None = None
        self._capture = CaptureFile(options.file)

    def read(self) -> Iterator[Batch]:
        try:
            yield from self._batches()
        finally:
            done = self._capture.progress.read_bytes
            self._context.progress(done, done)
        yield self._flows.sweep(None)
        if self._capture.cut_short:
            self._context.notice(
                f"pcap: {self._capture.name} ends inside a packet: what came before it was read"
            )

    def put_losses(self) -> None:
        put = self._context.losses.put
        _put_packets(self._context, self._capture)
        put("skipped", "pcap: packets that are not outbound (-I pcap:local-cidr)", self._others)
        self._flows.put_losses()

    def change(self, options: PcapOptions) -> None:
        change_flows(self._flows, Pcap.name, self._options, options, self._context)
        self._options = options

    def close(self) -> None:
        self._capture.close()

    def _batches(self) -> Iterator[Batch]:
        for records in self._capture.read():
            now_ns = time.monotonic_ns()
            if records is None:
                # Who writes to a pipe may have nothing to say for long: windows end all the same.
                yield self._sweep(self._clock_ns + now_ns - self._came_ns)
            else:
                self._came_ns = now_ns
                yield self._records(records)
                yield self._sweep(self._clock_ns)
            self._context.progress(*self._capture.progress)
            if self.stopping:
                break

    def _sweep(self, clock_ns: int) -> Batch:
        # A capture's time may also go back.
        if 0 <= clock_ns - self._swept_ns < self._sweep_after_ns:
            return ()
        self._swept_ns = clock_ns
        return self._flows.sweep(clock_ns)

    def _records(self, records: memoryview) -> Batch:
        batch = []
        flows, directions = self._flows, self._directions
        came_in = RECEIVED if self._link_layer_tells else 0
        for record in self._decoder.unpack(records):
            flow, ts, flags = record[0], record[1], record[5]
            # Without a time a packet is as late as the one before it.
            clock_ns = self._clock_ns = ts or self._clock_ns
            if not flags & came_in and flows.adds(flow, ts, clock_ns):
                continue
            if directions.is_known_other(flow):
                self._others += 1
                continue
            packet = self._decoder.packet(record)
            sent = packet.sent if self._link_layer_tells else None
            is_tcp = packet.protocol == TCP
            ours = directions.leaves(packet.src, sent) if is_tcp else directions.is_ours(flow, sent)
            if not ours:
                self._others += 1
                continue
            if record[3] != self._interface:
                self._interface = record[3]
                self._ifname = self._capture.interface_name(record[3])
            sighting = Sighting(packet, ts, clock_ns, ifname=self._ifname)
            if flows.wants(packet) and not flows.is_repeat(sighting):
                connection = flows.connection(sighting, None)
                if connection is not None:
                    batch.append(connection)
        return batch + flows.due()


class _DeviceSource:
    """Captures until it is stopped; processes are those of the sockets that sent."""

    def __init__(self, options: PcapOptions, context: Context) -> None:
        self.stopping = False
        self._context = context
        self._decoder = PacketDecoder()
        self._is_local = HostAddresses()
        self._directions = Directions(self._is_local)
        self._others = 0
        self._ifindex = _index_of(options.device)
        self._device = Device(options.device, options.buffer)
        try:
            self._tells_sent = self._device.link_type in _TELL_SENT
            self._capture = Capture(self._device)
            self._records = self._capture.read()
            self._observer = Observer(Pcap.name, options, context)
        except BaseException:
            self._device.close()
            raise

    def read(self) -> Iterator[Batch]:
        yield from self._observer.batches(self._device.fileno(), self._receive, lambda: self.stopping)

    def put_losses(self) -> None:
        put = self._context.losses.put
        drops = self._device.drops()
        put("lost", "pcap: the kernel's buffer was full (-I pcap:buffer)", drops.full)
        put("lost", "pcap: dropped by the interface", drops.interface)
        _put_packets(self._context, self._capture)
        put("skipped", "pcap: packets that are not outbound", self._others)
        self._observer.put_losses()

    def change(self, options: PcapOptions) -> None:
        self._observer.change(options)

    def close(self) -> None:
        self._device.close()
        self._observer.close()

    def _receive(self) -> int:
        clock_ns, now_ns = time.monotonic_ns(), time.time_ns()
        # At a stop all that had come by then; else a part, so that a flood keeps nobody from looking around.
        most = sys.maxsize if self.stopping else AT_ONCE
        seen = last_ts = 0
        while seen < most and last_ts <= now_ns and (records := next(self._records)) is not None:
            for record in self._decoder.unpack(records):
                self._see(record, clock_ns)
                seen, last_ts = seen + 1, record[1]
        return clock_ns

    def _see(self, record: Record, clock_ns: int) -> None:
        packet = self._decoder.packet(record)
        # What was forwarded was sent too, and what goes to ourselves is received: addresses tell.
        if self._tells_sent and not packet.sent and not self._is_local(packet.dst):
            ours = False
        elif packet.protocol == TCP:
            ours = self._directions.leaves(packet.src, None)
        else:
            ours = self._directions.is_ours(packet.flow, None)
        if ours:
            self._observer.see(Sighting(packet, record[1], clock_ns, self._ifindex))
        else:
            self._others += 1


def _put_packets(context: Context, capture: Capture) -> None:
    """Counters of what a capture holds besides openings of connections."""
    put = context.losses.put
    for reason, count in capture.skipped().items():
        put("skipped", f"pcap: packets {reason}", count)
    for reason, count in capture.unreadable().items():
        put("unreadable", f"pcap: packets {reason}", count)
    put("untimed", "pcap: packets without a time", capture.untimed)


def _index_of(device: str) -> int:
    """The interface's number; 0 for `any` and what is no interface, such as nflog:N."""
    try:
        return if_nametoindex(device)
    except (OSError, ValueError):
        return 0

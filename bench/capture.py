# SPDX-License-Identifier: MIT
"""How many packets per second of CPU time one core takes from a capture file, beside tcpdump and tshark."""

from __future__ import annotations

import os
import random
import resource
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import Table
from pyegress.decode.capture import CaptureFile
from pyegress.decode.packet import PacketDecoder
from pyegress.inputs.pcap import Pcap, PcapOptions
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Batch, Context

FILTER = "tcp[tcpflags]&(tcp-syn|tcp-ack)==tcp-syn or udp"
DISPLAY_FILTER = "(tcp.flags.syn == 1 and tcp.flags.ack == 0) or udp"
FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport")
RUNS = 5
TSHARK_RUNS = 1
"""It takes some hundred times as long."""
FRAMES = 20000
_Drawn = bytes | Callable[[random.Random], bytes]
"""A frame, or how to make one."""
_ETHERNET, _IPV4, _IPV6, _VLAN, _ARP = 1, 0x0800, 0x86DD, 0x8100, 0x0806
_TCP, _UDP, _ICMP = 6, 17, 1
_SYN, _ACK = 0x02, 0x10


def measure(quick: bool) -> Table:
    """Write a capture, and read it in each way."""
    packets = 200_000 if quick else 1_000_000
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as folder:
            file = Path(folder) / "mix.pcap"
            wanted = write_capture(file, packets)
            size_mb = file.stat().st_size / 1e6
            rows = [_row(name, seconds, packets, size_mb) for name, seconds in _times(file, wanted)]
    finally:
        os.sched_setaffinity(0, cpus)
    return Table(
        f"Capture file on one core, {packets:,} packets of {size_mb:,.0f} MB, {wanted:,} of them SYN or UDP, "
        f"CPU time, median of {RUNS} (tshark: {TSHARK_RUNS})",
        ("from file to", "packets/s", "ns/packet", "MB/s"),
        rows,
    )


def write_capture(path: Path, packets: int) -> int:
    """A mix as of a busy host, always the same; returns how many of the packets may open a connection."""
    rng = random.Random(1)
    established: list[_Drawn] = [_established(rng) for _ in range(FRAMES)]
    opening: list[_Drawn] = [_syn, _query, _datagram]
    others: list[_Drawn] = [_link(rng, _ARP, bytes(46)), _link(rng, _IPV4, _ipv4(rng, _ICMP, bytes(64)))]
    wanted = 0
    ts_us = 1_700_000_000_000_000
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, _ETHERNET))
        for kind in rng.choices((established, opening, others), (88, 10, 2), k=packets):
            wanted += kind is opening
            ts_us += rng.randrange(100)
            drawn = rng.choice(kind)
            frame = drawn if isinstance(drawn, bytes) else drawn(rng)
            length = len(frame)
            file.write(struct.pack("<IIII", ts_us // 1_000_000, ts_us % 1_000_000, length, length) + frame)
    return wanted


def _times(file: Path, wanted: int) -> list[tuple[str, float | None]]:
    tcpdump = ("tcpdump", "-r", str(file), "-w", "/dev/null", FILTER)
    fields = (word for field in FIELDS for word in ("-e", field))
    tshark = ("tshark", "-n", "-r", str(file), "-Y", DISPLAY_FILTER, "-T", "fields", *fields)
    return [
        ("egress_packet records", _median_s(lambda: _read(file, wanted, lambda records: None))),
        ("Python tuples", _median_s(lambda: _read(file, wanted, _unpacked))),
        ("Packets", _median_s(lambda: _read(file, wanted, _packets))),
        ("Connection records", _median_s(lambda: _connections(file, lambda batch: None))),
        ("logfmt lines", _median_s(lambda: _logfmt(file))),
        ("tcpdump -w /dev/null", _command_s(tcpdump, RUNS)),
        ("tshark -T fields", _command_s(tshark, TSHARK_RUNS)),
    ]


def _read(file: Path, wanted: int, use: Callable[[memoryview], object]) -> None:
    capture = CaptureFile(str(file))
    found = 0
    for records in capture.read():
        if records:
            use(records)
            found += len(records)
    capture.close()
    if found != wanted * 64:
        raise RuntimeError(f"capture: {found // 64} of {wanted} packets came out")


def _unpacked(records: memoryview) -> None:
    for _ in _DECODER.unpack(records):
        pass


def _packets(records: memoryview) -> None:
    for record in _DECODER.unpack(records):
        _DECODER.packet(record)


def _connections(file: Path, use: Callable[[Batch], object]) -> None:
    source = Pcap(PcapOptions(file=str(file)))
    source.open(_context())
    found = 0
    for batch in source.read():
        use(batch)
        found += len(batch)
    source.close()
    if not found:
        raise RuntimeError("capture: no connections came out")


def _logfmt(file: Path) -> None:
    lines = Logfmt(LogfmtOptions(file=os.devnull))
    lines.open(_context())
    _connections(file, lines.write)
    lines.close()


def _context() -> Context:
    return Context(Losses(), lambda text: None, lambda text: None)


_DECODER = PacketDecoder()


def _median_s(run: Callable[[], None]) -> float:
    times = []
    for _ in range(RUNS):
        # CPU time: what else runs on the machine does not count.
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _command_s(command: tuple[str, ...], runs: int) -> float | None:
    if not shutil.which(command[0]):
        return None
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


def _row(name: str, seconds: float | None, packets: int, size_mb: float) -> tuple[str, ...]:
    if seconds is None:
        return (name, "not installed", "", "")
    return (name, f"{packets / seconds:,.0f}", f"{seconds / packets * 1e9:,.0f}", f"{size_mb / seconds:,.0f}")


def _link(rng: random.Random, ether_type: int, packet: bytes) -> bytes:
    tag = struct.pack(">HH", _VLAN, 7) if rng.random() < 0.1 else b""
    return bytes(12) + tag + struct.pack(">H", ether_type) + packet


def _ipv4(rng: random.Random, protocol: int, payload: bytes) -> bytes:
    address = rng.getrandbits(16)
    return (
        struct.pack(
            ">BBHHHBBHII",
            *(0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0),
            *(0xC0A8010A, 0xC6330000 + address),
        )
        + payload
    )


def _ipv6(rng: random.Random, protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64)
    net = bytes.fromhex("20010db8") + bytes(8)
    return head + net + struct.pack(">I", 10) + net + struct.pack(">I", rng.getrandbits(16)) + payload


def _frame(rng: random.Random, protocol: int, payload: bytes) -> bytes:
    if rng.random() < 0.2:
        return _link(rng, _IPV6, _ipv6(rng, protocol, payload))
    return _link(rng, _IPV4, _ipv4(rng, protocol, payload))


def _tcp(rng: random.Random, flags: int, data_bytes: int) -> bytes:
    port, sequence = 32768 + rng.getrandbits(14), rng.getrandbits(32)
    return struct.pack(">HHIIBBHHH", port, 443, sequence, 0, 0x50, flags, 65535, 0, 0) + bytes(data_bytes)


def _established(rng: random.Random) -> bytes:
    data_bytes = rng.choice((0, 0, 0, 0, rng.randrange(1400), 1400))
    return _frame(rng, _TCP, _tcp(rng, _ACK, data_bytes))


def _syn(rng: random.Random) -> bytes:
    return _frame(rng, _TCP, _tcp(rng, _SYN, 0))


def _query(rng: random.Random) -> bytes:
    """DNS: each a flow of its own."""
    return _frame(rng, _UDP, struct.pack(">HHHH", 32768 + rng.getrandbits(14), 53, 38, 0) + bytes(30))


def _datagram(rng: random.Random) -> bytes:
    """QUIC: of few flows, which send many."""
    flow, data_bytes = rng.randrange(200), rng.choice((30, rng.randrange(1200), 1200))
    return _frame(
        random.Random(flow),
        _UDP,
        struct.pack(">HHHH", 40000 + flow, 443, 8 + data_bytes, 0) + bytes(data_bytes),
    )

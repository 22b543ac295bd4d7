# SPDX-License-Identifier: MIT
"""Capture files: what may open a connection comes out of each kind, the rest is counted, lies are told."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.decode import capture
from pyegress.decode.address import Addresses
from pyegress.decode.capture import CaptureFile
from pyegress.decode.packet import HAS_TIME, PacketDecoder, Unreadable
from pyegress.errors import InputError
from tests.decode.frames import (
    ACK,
    ETHERNET,
    INTERFACE,
    OLD_PACKET,
    PACKET,
    PCAP_MODIFIED,
    PCAP_NS,
    PCAP_US,
    RAW,
    SECTION,
    SIMPLE_PACKET,
    SYN,
    UDP,
    block,
    enhanced,
    ethernet,
    interface,
    ipv4,
    ipv6,
    pcap,
    section,
    tcp,
    udp,
)

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "pcaps"
T = 1_700_000_000_000_000_000
"""When all packets of the golden files were taken, almost."""
V4, V6 = "198.51.100.7:443", "[2001:db8:1::7]:443"
IGNORED_TCP = "of TCP that open no connection"
UNTIMED = "without a time"
SYN_PACKET = ipv4(tcp())


class Found(NamedTuple):
    """What the tests want to know of a packet."""

    destination: str
    ts_ns: int | None
    sent: bool | None = None
    interface: int = 0


class Reading(NamedTuple):
    """All that came of a file."""

    found: list[Found]
    error: str | None
    file: CaptureFile

    @property
    def counts(self) -> dict[str, int]:
        """What was counted."""
        counts = {**self.file.skipped(), **self.file.unreadable(), UNTIMED: self.file.untimed}
        return {reason: count for reason, count in counts.items() if count}


decoder = PacketDecoder()
addresses = Addresses()


def read(path: str | Path) -> Reading:
    """Read a whole file."""
    file = CaptureFile(str(path))
    found: list[Found] = []
    try:
        for records in file.read():
            for record in decoder.unpack(records or memoryview(b"")):
                packet = decoder.packet(record)
                address = addresses[packet.dst]
                shown = f"[{address}]" if packet.ip_version == 6 else address
                ts_ns = record[1] if record[5] & HAS_TIME else None
                found.append(Found(f"{shown}:{packet.dport}", ts_ns, packet.sent, record[3]))
    except InputError as error:
        return Reading(found, str(error), file)
    finally:
        file.close()
    return Reading(found, None, file)


def read_bytes(tmp_path: Path, *parts: bytes) -> Reading:
    """Read a file of these bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(parts))
    return read(path)


GOLDEN_FOUND: dict[str, list[Found]] = {
    "pc02_tsres_pow2_offset.pcapng": [Found(V4, T + 500_000_000)],
    "pc04_be_ns.pcap": [Found(V4, T + 123_456_789)],
    "pc04_be_us.pcap": [Found(V4, T + 123_456_000)],
    "pc04_le_ns.pcap": [Found(V4, T + 123_456_789)],
    "pc04_le_us.pcap": [Found(V4, T + 123_456_000)],
    "pc05_ipv4_228.pcap": [Found(V4, T)],
    "pc05_ipv6_229.pcap": [Found(V6, T)],
    "pc05_loop108.pcap": [Found(V4, T)],
    "pc05_null_be.pcap": [Found(V4, T)],
    "pc05_null_le.pcap": [Found(V4, T), Found(V6, T + 1000)],
    "pc05_raw101.pcap": [Found(V4, T), Found(V6, T + 1000)],
    "pc05_sll113.pcap": [Found(V4, T, True), Found("192.168.1.10:22", T + 1000, False)],
    "pc05_sll2_276.pcap": [Found(V4, T, True), Found(V6, T + 1000, True)],
    "pc06_80211_105.pcap": [],
    "pc07_vlan.pcap": [Found(V4, T), Found(V6, T + 1000), Found("198.51.100.7:80", T + 2000)],
    "pc10_snap.pcap": [Found("198.51.100.7:53", T + 2000)],
    "pc11_blocks.pcapng": [Found(V4, None), Found(V4, T), Found("198.51.100.7:8080", T, None, 1)],
    "pc12_flags.pcap": [
        *(Found(V4, T + second * 1_000_000_000) for second in (0, 1, 3)),
        Found("192.168.1.10:22", T + 4_000_000_000),
        Found("198.51.100.7:993", T + 6_000_000_000),
    ],
    "pc14_lengths.pcap": [
        Found(V4, T),
        *(Found(f"198.51.100.7:{port}", T + us * 1000) for port, us in ((80, 1), (81, 2), (82, 4))),
    ],
    "pc15_addrs.pcap": [
        Found("[fe80::2]:443", T),
        Found("[ff02::fb]:5353", T + 1000),
        Found("255.255.255.255:67", T + 2000),
        Found("224.0.0.251:5353", T + 3000),
        Found("127.8.9.1:80", T + 4000),
        Found("[64:ff9b::c000:221]:80", T + 5000),
    ],
}
GOLDEN_COUNTS = {
    "pc10_snap.pcap": {Unreadable.CUT.value: 2},
    "pc11_blocks.pcapng": {UNTIMED: 1},
    "pc12_flags.pcap": {IGNORED_TCP: 4},
    "pc14_lengths.pcap": {Unreadable.NOT_IP.value: 2, Unreadable.MALFORMED.value: 1},
}


def test_every_golden_file_is_tested() -> None:
    """None is forgotten."""
    assert {path.name for path in GOLDEN.iterdir()} == set(GOLDEN_FOUND)


@pytest.mark.parametrize("name", GOLDEN_FOUND)
def test_golden_file(name: str) -> None:
    """Each file gives exactly what is in it."""
    reading = read(GOLDEN / name)
    assert reading.found == GOLDEN_FOUND[name]
    assert reading.counts == GOLDEN_COUNTS.get(name, {})
    assert not reading.file.cut_short
    if name != "pc06_80211_105.pcap":
        assert reading.error is None


@pytest.mark.parametrize("name", GOLDEN_FOUND)
def test_every_prefix_of_a_golden_file(tmp_path: Path, name: str) -> None:
    """A file that was cut off gives what was whole, and says that it was cut off; or it is no capture."""
    data = (GOLDEN / name).read_bytes()
    for length in range(len(data)):
        reading = read_bytes(tmp_path, data[:length])
        assert reading.found == GOLDEN_FOUND[name][: len(reading.found)]
        if reading.error is None:
            between_records = read_bytes(tmp_path, data[:length] + b"\0").file.cut_short
            assert reading.file.cut_short or between_records, length


@pytest.mark.parametrize("name", ["pc07_vlan.pcap", "pc11_blocks.pcapng", "pc15_addrs.pcap"])
@pytest.mark.parametrize("chunk", [4, 5, 61, 4096])
def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    """However the bytes arrive, and however few records fit, the packets are the same."""
    monkeypatch.setattr(capture, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(capture, "BATCH", 2)
    reading = read(GOLDEN / name)
    assert reading.found == GOLDEN_FOUND[name]
    assert reading.counts == GOLDEN_COUNTS.get(name, {})


def test_compressed_and_from_a_pipe(tmp_path: Path) -> None:
    """A compressed capture that somebody pipes is as good as a file."""
    code = (
        "from pyegress.decode.capture import CaptureFile\n"
        "file = CaptureFile('-')\n"
        "print(sum(len(records) for records in file.read()) // 64, file.packets, file.progress.total_bytes)\n"
    )
    data = pcap(*[SYN_PACKET, ipv4(udp(), UDP), ipv4(tcp(flags=ACK))] * 10_000)
    done = subprocess.run(
        [sys.executable, "-c", code], input=gzip.compress(data), capture_output=True, check=True
    )
    assert done.stdout == b"20000 30000 None\n"


def test_compressed_file_that_ends_too_early(tmp_path: Path) -> None:
    """It is said even where a record ends just there."""
    whole = gzip.compress(pcap(SYN_PACKET))
    reading = read_bytes(tmp_path, whole[:-4])
    assert reading.file.cut_short
    assert reading.found == [Found(V4, T)]


def test_pipe_with_nothing_to_give(tmp_path: Path) -> None:
    """Whoever reads gets a word from time to time, so that it can be stopped."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    batches = CaptureFile(str(path)).read()
    assert next(batches) is None
    with path.open("wb", buffering=0) as writer:
        writer.write(pcap(SYN_PACKET))
        while not (records := next(batches)):
            pass
        assert len(records) == 64
        writer.write(pcap(SYN_PACKET)[24:40])
        while next(batches) is not None:
            pass
    assert not any(batches)


def test_data_without_openings_comes_as_empty_batches(tmp_path: Path) -> None:
    """So that a large file can be stopped however little it holds."""
    path = tmp_path / "file"
    path.write_bytes(pcap(*[ipv4(tcp(flags=ACK))] * 30_000))
    batches = [len(records) for records in CaptureFile(str(path)).read() if records is not None]
    assert len(batches) >= path.stat().st_size // capture.CHUNK_BYTES
    assert not any(batches)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("magic", "fraction_ns"),
    [(PCAP_US, 1000), (PCAP_NS, 1), (PCAP_MODIFIED, 1000)],
    ids=["us", "ns", "modified"],
)
def test_kinds_of_pcap(tmp_path: Path, magic: int, fraction_ns: int, order: str) -> None:
    """Each kind, in both byte orders, to the last second that it can tell."""
    for seconds in (0, 1_700_000_000, 0xFFFFFFFF):
        data = pcap(SYN_PACKET, ipv6(tcp()), magic=magic, order=order, seconds=seconds, fraction=999)
        ts_ns = seconds * 1_000_000_000 + 999 * fraction_ns
        assert read_bytes(tmp_path, data).found == [Found(V4, ts_ns), Found(V6, ts_ns)]


def test_link_type_with_a_check_sequence(tmp_path: Path) -> None:
    """Above the link type a file may say how long the frames' check sequence is."""
    reading = read_bytes(tmp_path, pcap(ethernet(SYN_PACKET) + b"\xff" * 4, link_type=ETHERNET | 0x54000000))
    assert reading.found == [Found(V4, T)]


@pytest.mark.parametrize(
    ("packet", "count"),
    [
        (ipv4(tcp(flags=SYN)), None),
        (ipv4(tcp(flags=SYN | 0xC0)), None),
        (ipv4(udp(), UDP), None),
        (ipv4(tcp(flags=SYN | ACK)), IGNORED_TCP),
        (ipv4(tcp(flags=ACK)), IGNORED_TCP),
        (ipv4(tcp(flags=0)), IGNORED_TCP),
        (ipv4(tcp(flags=0x04)), IGNORED_TCP),
        (ipv4(bytes(8), 1), "of other protocols than TCP and UDP"),
        (ipv4(udp(), 132), "of other protocols than TCP and UDP"),
        (b"\x50", Unreadable.NOT_IP.value),
        (b"\x44" + bytes(40), Unreadable.MALFORMED.value),
        (SYN_PACKET[:30], Unreadable.CUT.value),
        (b"", Unreadable.CUT.value),
        (ipv4(tcp(), fragment=1), Unreadable.LATER_FRAGMENT.value),
    ],
)
def test_what_comes_out(tmp_path: Path, packet: bytes, count: str | None) -> None:
    """TCP that opens a connection, and UDP; each other packet is counted, for one reason."""
    reading = read_bytes(tmp_path, pcap(packet, packet))
    assert len(reading.found) == (2 if count is None else 0)
    assert reading.counts == ({} if count is None else {count: 2})
    assert reading.file.packets == 2


TICKS = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("resolution", "ticks", "ts_ns"),
    [
        (0, 1_700_000_000, T),
        (3, 1_700_000_000_123, T + 123_000_000),
        (6, 1_700_000_000_123_456, T + 123_456_000),
        (9, TICKS, TICKS),
        (10, TICKS * 10 + 9, TICKS),
        (18, (1 << 64) - 1, 18_446_744_073),
        (19, (1 << 64) - 1, 1_844_674_407),
        (127, (1 << 64) - 1, 0),
        (0x80, 1_700_000_000, T),
        (0x80 | 10, 1_700_000_000 * 1024 + 512, T + 500_000_000),
        (0x80 | 32, (1_700_000_000 << 32) + 1, T),
        (0x80 | 32, (1_700_000_000 << 32) + (1 << 31), T + 500_000_000),
        (0x80 | 63, (1 << 64) - 1, 1_999_999_999),
        (0x80 | 64, (1 << 64) - 1, 999_999_999),
        (0xFF, (1 << 64) - 1, 0),
        (6, 0, 0),
        (0, 18_446_744_073, 18_446_744_073_000_000_000),
        (0, 18_446_744_074, None),
        (6, (1 << 64) - 1, None),
    ],
)
def test_resolution_of_time(tmp_path: Path, resolution: int, ticks: int, ts_ns: int | None) -> None:
    """Every resolution is exact to the ns; a time after the year 2554 is none."""
    reading = read_bytes(
        tmp_path, section(), interface(_9=bytes((resolution,))), enhanced(SYN_PACKET, ticks=ticks)
    )
    assert reading.found == [Found(V4, ts_ns)]
    assert reading.counts == ({UNTIMED: 1} if ts_ns is None else {})


@pytest.mark.parametrize(
    ("offset", "ts_ns"),
    [(0, 1000), (1, 1_000_001_000), (-1, None), (1 << 62, None), (-(1 << 63), None), ((1 << 63) - 1, None)],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_offset_of_time(tmp_path: Path, order: str, offset: int, ts_ns: int | None) -> None:
    """Seconds that the interface adds; a time before 1970 is none."""
    described = interface(order=order, _14=struct.pack(order + "q", offset))
    reading = read_bytes(tmp_path, section(order), described, enhanced(SYN_PACKET, ticks=1, order=order))
    assert reading.found == [Found(V4, ts_ns)]


@pytest.mark.parametrize(
    ("flags", "sent"), [(0, None), (1, False), (2, True), (3, None), (0xFFFFFFFE, True), (0x1FD, False)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_direction_of_pcapng(tmp_path: Path, order: str, flags: int, sent: bool | None) -> None:
    """A packet's flags say in which direction it went."""
    packet = enhanced(SYN_PACKET, order=order, _1=b"comment", _2=struct.pack(order + "I", flags))
    assert read_bytes(tmp_path, section(order), interface(order=order), packet).found == [Found(V4, 0, sent)]


def test_direction_of_pcapng_and_link_layer(tmp_path: Path) -> None:
    """Where both tell, it is the packet's flags."""
    sll = struct.pack(">HHH8sH", 4, 1, 6, bytes(8), 0x0800) + SYN_PACKET
    packets = [enhanced(sll), enhanced(sll, _2=struct.pack("<I", 1)), enhanced(sll, _2=bytes(4))]
    found = read_bytes(tmp_path, section(), interface(113), *packets).found
    assert [packet.sent for packet in found] == [True, False, True]


def test_sections_have_their_own_interfaces(tmp_path: Path) -> None:
    """Byte order and interfaces are those of the section; numbers and names are of the whole file."""
    reading = read_bytes(
        tmp_path,
        *(section("<"), interface(RAW, "<", _2=b"lo"), interface(ETHERNET, "<", _2=b"eth0")),
        *(enhanced(ethernet(SYN_PACKET), 1), enhanced(SYN_PACKET, 0)),
        *(section(">"), interface(ETHERNET, ">"), enhanced(ethernet(SYN_PACKET), order=">")),
        *(section("<"), section(">"), interface(RAW, ">", _2=b"tun\xff\x1b[31m\0hidden")),
        enhanced(SYN_PACKET, order=">"),
    )
    assert reading.error is None
    assert [packet.interface for packet in reading.found] == [1, 0, 2, 3]
    names = [reading.file.interface_name(number) for number in range(5)]
    assert names == ["lo", "eth0", None, "tun\udcff\x1b[31m", None]


def test_long_interface_name(tmp_path: Path) -> None:
    """No more is kept of it than a name is long."""
    reading = read_bytes(tmp_path, section(), interface(_2=b"x" * 60_000))
    assert reading.file.interface_name(0) == "x" * 63


def test_simple_packets(tmp_path: Path) -> None:
    """They have no time and no length of their own: that is the least of block, original and snap length."""

    def simple(packet: bytes, original: int) -> bytes:
        return block(SIMPLE_PACKET, struct.pack("<I", original) + packet)

    long = ipv4(udp(data=bytes(2)), UDP)
    assert read_bytes(tmp_path, section(), interface(), simple(long, len(long))).counts == {UNTIMED: 1}
    cut = {Unreadable.CUT.value: 1}
    assert read_bytes(tmp_path, section(), interface(snap=23), simple(long, len(long))).counts == cut
    assert read_bytes(tmp_path, section(), interface(), simple(long, 23)).counts == cut
    reading = read_bytes(tmp_path, section(), interface(), simple(long, 9000))
    assert reading.found == [Found("198.51.100.7:53", None)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_obsolete_packets(tmp_path: Path, order: str) -> None:
    """Their interface's number is shorter, and followed by a number of drops."""
    head = struct.pack(order + "HHIIII", 1, 0xFFFF, 0, 5, len(SYN_PACKET), len(SYN_PACKET))
    reading = read_bytes(
        tmp_path,
        *(section(order), interface(ETHERNET, order), interface(RAW, order)),
        block(OLD_PACKET, head + SYN_PACKET, order),
    )
    assert reading.found == [Found(V4, 5000, None, 1)]


@pytest.mark.parametrize("kind", [0, 4, 5, 9, 10, 0xBAD, 0x40000BAD, 0x80000001, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 4, 1 << 22])
def test_blocks_that_nobody_asked_for(tmp_path: Path, kind: int, size: int) -> None:
    """Any number of other blocks is passed, however long they are."""
    other = block(kind, bytes(size))
    reading = read_bytes(tmp_path, section(), other, interface(), other, enhanced(SYN_PACKET), other)
    assert (reading.found, reading.error, reading.file.cut_short) == ([Found(V4, 0)], None, False)


@pytest.mark.parametrize("size", [0, 1000, 1 << 22])
def test_file_ends_in_a_block_that_nobody_asked_for(tmp_path: Path, size: int) -> None:
    """That is said too."""
    reading = read_bytes(tmp_path, section(), interface(), enhanced(SYN_PACKET), block(5, bytes(size))[:-1])
    assert (reading.found, reading.error, reading.file.cut_short) == ([Found(V4, 0)], None, True)


def test_unsupported_link_type_of_some_interfaces(tmp_path: Path) -> None:
    """Packets of others are read; those are counted under their numbers."""
    described = [interface(RAW), interface(105), interface(127), interface(105)]
    packets = [enhanced(SYN_PACKET, number) for number in (1, 0, 2, 3)]
    reading = read_bytes(tmp_path, section(), *described, *packets)
    assert reading.found == [Found(V4, 0)]
    assert reading.counts == {"of a link type that is not supported (105, 127)": 3}
    assert reading.error is None


@pytest.mark.parametrize(
    "data",
    [
        pcap(SYN_PACKET, link_type=105),
        pcap(link_type=105),
        section() + interface(105) + interface(RAW) + enhanced(SYN_PACKET),
    ],
    ids=["pcap", "empty pcap", "pcapng"],
)
def test_unsupported_link_type_of_all(tmp_path: Path, data: bytes) -> None:
    """A file of which no packet can be read is an error that names the link type."""
    reading = read_bytes(tmp_path, data)
    assert reading.error == f"cannot read {tmp_path}/file: link type 105 is not supported"


def test_capture_without_packets(tmp_path: Path) -> None:
    """It is none the less a capture."""
    for data in (pcap(), section(), section() + interface(105)):
        reading = read_bytes(tmp_path, data)
        assert (reading.found, reading.error, reading.counts, reading.file.packets) == ([], None, {}, 0)


def framed(kind: int, length: int, body: bytes = bytes(8), trailer: int | None = None) -> bytes:
    """A block that says what it likes of its length."""
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length if trailer is None else trailer)


GOOD = section() + interface() + enhanced(SYN_PACKET)
AT = len(GOOD)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\n", "not a capture: it ends inside its first header"),
        (pcap()[:23], "not a capture: it ends inside its first header"),
        (section()[:15], "not a capture: it ends inside its first header"),
        (b"#!/bin/sh\n", "not a capture: neither pcap nor pcapng"),
        (bytes(100), "not a capture: neither pcap nor pcapng"),
        (b"\xfd7zXZ\0" + bytes(100), "not a capture: neither pcap nor pcapng"),
        (pcap()[:4] + b"\x03" + pcap()[5:], "pcap of version 3 is not supported"),
        (section()[:12] + b"\x02" + section()[13:], "at byte 0: pcapng of version 2 is not supported"),
        (section()[:8] + bytes(20), "at byte 0: a section without a byte order"),
        (section()[:-1] + b"\x01", "at byte 24: a block of 28 bytes says 16777244 at its end"),
        (pcap(SYN_PACKET) + bytes(8) + b"\xff" * 8, "at byte 80: a packet of 4294967295 bytes"),
        (
            pcap(SYN_PACKET) + struct.pack("<IIII", 0, 0, (2 << 20) - 15, 0),
            "at byte 80: a packet of 2097137 bytes",
        ),
        (GOOD + framed(9, 0), f"at byte {AT}: a block of 0 bytes"),
        (GOOD + framed(9, 8), f"at byte {AT}: a block of 8 bytes"),
        (GOOD + framed(9, 21), f"at byte {AT}: a block of 21 bytes"),
        (GOOD + framed(PACKET, 22), f"at byte {AT}: a block of 22 bytes"),
        (GOOD + framed(PACKET, (2 << 20) + 4), f"at byte {AT}: a block of 2097156 bytes"),
        (GOOD + framed(INTERFACE, 0xFFFFFFFC), f"at byte {AT}: a block of 4294967292 bytes"),
        (GOOD + framed(9, (1 << 24) + 4), f"at byte {AT}: a block of 16777220 bytes"),
        (pcap(SYN_PACKET) + bytes(1 << 20), "at byte 80: zeros where a packet should begin"),
        (GOOD + framed(9, 20, trailer=24), f"at byte {AT + 16}: a block of 20 bytes says 24 at its end"),
        (GOOD + framed(PACKET, 20, trailer=24), f"at byte {AT}: a block of 20 bytes says 24 at its end"),
        (GOOD + framed(PACKET, 20), f"at byte {AT}: a packet without a length"),
        (GOOD + framed(OLD_PACKET, 20), f"at byte {AT}: a packet without a length"),
        (GOOD + framed(SIMPLE_PACKET, 12, b""), f"at byte {AT}: a packet without a length"),
        (GOOD + framed(INTERFACE, 16, bytes(4)), f"at byte {AT}: an interface without a link type"),
        (
            GOOD + framed(PACKET, 32, bytes(12) + struct.pack("<II", 1, 0)),
            f"at byte {AT}: a packet of 1 bytes in a block of 32",
        ),
        (
            GOOD + framed(PACKET, 32, bytes(12) + struct.pack("<II", 0xFFFFFFFF, 0)),
            f"at byte {AT}: a packet of 4294967295 bytes in a block of 32",
        ),
        (
            GOOD + enhanced(SYN_PACKET, 1),
            f"at byte {AT}: a packet of interface 1, which was not described",
        ),
        (
            GOOD + enhanced(SYN_PACKET, 0xFFFFFFFF),
            f"at byte {AT}: a packet of interface 4294967295, which was not described",
        ),
        (
            GOOD + section() + enhanced(SYN_PACKET, 0),
            f"at byte {AT + 28}: a packet of interface 0, which was not described",
        ),
        (
            section() + block(SIMPLE_PACKET, bytes(8)),
            "at byte 28: a packet of interface 0, which was not described",
        ),
        (
            section() + interface() * 65537,
            f"at byte {28 + 65536 * len(interface())}: more than 65536 interfaces",
        ),
    ],
)
def test_lies(tmp_path: Path, data: bytes, message: str) -> None:
    """The error says where the file is wrong, after all that came before it."""
    reading = read_bytes(tmp_path, data)
    assert reading.error == f"cannot read {tmp_path}/file: {message}"
    assert len(reading.found) == data[:80].count(SYN_PACKET) or data.startswith(GOOD)
    if data.startswith(GOOD):
        assert reading.found == [Found(V4, 0)]


@pytest.mark.parametrize("length", [1 << 24, 1 << 22])
def test_length_far_behind_the_end(tmp_path: Path, length: int) -> None:
    """A block that says it is longer than the file needs no memory: the file just ends in it."""
    for kind in (9, SECTION):
        body = section()[8:-4] if kind == SECTION else bytes(100)
        reading = read_bytes(tmp_path, GOOD, framed(kind, length, body))
        assert (reading.found, reading.error, reading.file.cut_short) == ([Found(V4, 0)], None, True)


@pytest.mark.parametrize("bytes_of_options", [b"\x02\0\xff\xff", b"\x09\0\x01\0", b"\x01", b"\x02\0\x04\0"])
def test_options_that_end_too_early(tmp_path: Path, bytes_of_options: bytes) -> None:
    """A list of options that lies ends there, and the packets are read."""
    described = block(INTERFACE, struct.pack("<HHI", RAW, 0, 0) + bytes_of_options)
    head = struct.pack("<IIIII", 0, 0, 1, len(SYN_PACKET), len(SYN_PACKET))
    packet = block(PACKET, head + SYN_PACKET + bytes_of_options)
    assert read_bytes(tmp_path, section(), described, packet).found[0].destination == V4


def test_largest_record(tmp_path: Path) -> None:
    """Long records are read up to the limit, whatever is before and behind them."""
    most = 2 << 20
    small, large = SYN_PACKET, ipv4(udp(), UDP)
    in_pcap = large + bytes(most - 16 - len(large))
    in_pcapng = large + bytes(most - 32 - len(large))
    both = [V4, "198.51.100.7:53"] * 2
    reading = read_bytes(tmp_path, pcap(small, in_pcap, small, in_pcap))
    assert (reading.error, [packet.destination for packet in reading.found]) == (None, both)
    reading = read_bytes(tmp_path, section(), interface(), *map(enhanced, (small, in_pcapng) * 2))
    assert (reading.error, [packet.destination for packet in reading.found]) == (None, both)


LIARS = {
    "caplen": lambda: pcap() + struct.pack("<IIII", 0, 0, 0x7FFFFFFF, 0) + bytes(1000),
    "block": lambda: section() + framed(PACKET, 0xFFFFFFFC),
    "interfaces": lambda: section() + interface() * 65537,
    "names": lambda: section() + interface(_2=b"x" * 65_000) * 1000,
    "options": lambda: section()
    + block(INTERFACE, struct.pack("<HHI", RAW, 0, 0) + b"\x01\0\0\0" * 500_000) * 20,
    "sections": lambda: section() * 500_000,
    "records": lambda: pcap(*[b""] * 500_000),
    "zeros": lambda: pcap(SYN_PACKET) + bytes(500_000_000),
    "compressed": lambda: gzip.compress(pcap() + bytes(200_000_000)),
}
READ_AND_MEASURE = """
import re, sys, time
from pathlib import Path
from pyegress.decode.capture import CaptureFile
from pyegress.errors import InputError
start = time.process_time()
try:
    for records in CaptureFile(sys.argv[1]).read():
        pass
except InputError:
    pass
print(time.process_time() - start, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("name", LIARS)
def test_liars_need_little(tmp_path: Path, name: str) -> None:
    """Neither memory nor time, whatever a file says of itself."""
    path = tmp_path / "file"
    path.write_bytes(LIARS[name]())
    command = [sys.executable, "-c", READ_AND_MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak_kb = map(float, done.stdout.split())
    assert seconds < 2
    assert peak_kb < 100_000


class Change(NamedTuple):
    """One change of a file."""

    at: int
    new: bytes
    removed: int


CHANGES = st.lists(
    st.builds(Change, st.integers(0, 700), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=4
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from(sorted(GOLDEN_FOUND)), changes=CHANGES, chunk=st.integers(4, 300))
def test_any_file_has_an_outcome(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[Change], chunk: int
) -> None:
    """Packets, counts or one error, and the same ones however the bytes arrive."""
    data = bytearray((GOLDEN / name).read_bytes())
    for change in changes:
        at = change.at % (len(data) + 1)
        data[at : at + change.removed] = change.new
    path = tmp_path_factory.mktemp("changed") / "file"
    path.write_bytes(data)
    whole = read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "CHUNK_BYTES", chunk)
        pieces = read(path)
    assert (pieces.found, pieces.error, pieces.counts) == (whole.found, whole.error, whole.counts)
    assert pieces.file.cut_short == whole.file.cut_short
    path.unlink()

# SPDX-License-Identifier: MIT
"""The pcap input: what a capture file's packets come to, and a real device in a network namespace of its own."""

from __future__ import annotations

import gzip
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress.errors import UnsupportedError, UsageError
from pyegress.inputs import pcap
from pyegress.inputs.pcap import PcapOptions
from pyegress.losses import Losses
from pyegress.options import parse
from pyegress.plugin import Context
from pyegress.run_command import is_capture_file
from tests.decode.frames import UDP, ethernet, ipv4, udp
from tests.island import FAR_4, FAR_6, LOCAL_4, PATIENCE_S, Audit, Done, Island, fields, island

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
DATA = Path(__file__).resolve().parents[1] / "data" / "pcaps"
FAR, FAR_V6 = "198.51.100.7", "2001:db8:1::7"


def read(path: str | Path, *given: str, data: bytes | None = None) -> Done:
    """Run pyegress on a file to its end."""
    options = [word for option in ("quiet:true", f"file:{path}", *given) for word in ("-I", f"pcap:{option}")]
    command = [sys.executable, "-m", "pyegress", "run", "-o", "logfmt", "-i", "pcap", *options]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines())


def destinations(done: Done) -> list[tuple[str, str]]:
    """Addresses and ports, in order."""
    assert done.code == 0, done.err
    return [(c["dest_ip"], c.get("dest_port", "")) for c in fields(done.out)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pc02_tsres_pow2_offset.pcapng", [(FAR, "443")]),
        ("pc05_ipv4_228.pcap", [(FAR, "443")]),
        ("pc05_ipv6_229.pcap", [(FAR_V6, "443")]),
        ("pc05_loop108.pcap", [(FAR, "443")]),
        ("pc05_null_be.pcap", [(FAR, "443")]),
        ("pc05_null_le.pcap", [(FAR, "443"), (FAR_V6, "443")]),
        ("pc05_raw101.pcap", [(FAR, "443"), (FAR_V6, "443")]),
        ("pc05_sll113.pcap", [(FAR, "443")]),
        ("pc05_sll2_276.pcap", [(FAR, "443"), (FAR_V6, "443")]),
        ("pc12_flags.pcap", [(FAR, "443"), (FAR, "993")]),
        ("pc14_lengths.pcap", [(FAR, "443"), (FAR, "80"), (FAR, "81"), (FAR, "82")]),
    ],
)
def test_what_a_file_comes_to(name: str, expected: list[tuple[str, str]]) -> None:
    """Link types, flags and lengths as CASES names them: new outbound connections, once each."""
    assert destinations(read(DATA / name)) == expected


@pytest.mark.parametrize(
    ("name", "nanoseconds"),
    [("be_us", "123456000"), ("le_us", "123456000"), ("be_ns", "123456789"), ("le_ns", "123456789")],
)
def test_four_magics(name: str, nanoseconds: str) -> None:
    """One event from each, with the time of the packet."""
    (connection,) = fields(read(DATA / f"pc04_{name}.pcap").out)
    assert connection["ts"] == f"2023-11-14T22:13:20.{nanoseconds}Z"
    assert connection["dest_ip"] == FAR


def test_time_resolution_and_offset() -> None:
    """Ticks of 2^-10 s, from an offset."""
    (connection,) = fields(read(DATA / "pc02_tsres_pow2_offset.pcapng").out)
    assert connection["ts"] == "2023-11-14T22:13:20.500000000Z"


def test_sections_and_a_packet_without_time() -> None:
    """Each section has its own byte order and interfaces; no time is no time, not 1970."""
    done = read(DATA / "pc11_blocks.pcapng")
    assert [(c.get("ts"), c["dest_port"]) for c in fields(done.out)] == [
        (None, "443"),
        ("2023-11-14T22:13:20.000000000Z", "443"),
        ("2023-11-14T22:13:20.000000000Z", "8080"),
    ]


def test_vlan_stacks() -> None:
    """Three kinds of tags, three events."""
    assert len(destinations(read(DATA / "pc07_vlan.pcap", "window:0"))) == 3


def test_cut_packets_are_counted() -> None:
    """No flags or no ports: no event, but said; a cut payload doesn't matter."""
    done = read(DATA / "pc10_snap.pcap")
    assert [port for _, port in destinations(done)] == ["53"]
    assert any("unreadable: 2" in line for line in done.err)


def test_unsupported_link_type_is_loud() -> None:
    """Its number, and a failure."""
    done = read(DATA / "pc06_80211_105.pcap")
    assert done.code == 1
    assert any("105" in line for line in done.err)


def test_addresses_that_are_no_ordinary_ones() -> None:
    """Link-local is reported, multicast and broadcast too, in both families; 127/8 is loopback; NAT64 stays IPv6."""
    found = [address for address, _ in destinations(read(DATA / "pc15_addrs.pcap"))]
    assert "fe80::2" in found and "64:ff9b::c000:221" in found
    assert {"ff02::fb", "224.0.0.251", "255.255.255.255"} <= set(found)
    assert "127.8.9.1" not in found
    cut = read(DATA / "pc15_addrs.pcap", "ignore-cidr:224.0.0.0/3", "ignore-cidr:ff00::/8")
    assert {"ff02::fb", "224.0.0.251", "255.255.255.255"}.isdisjoint(dict(destinations(cut)))


def test_who_is_local_can_be_said() -> None:
    """Then connections from others are not outbound, and are counted."""
    done = read(DATA / "pc12_flags.pcap", "local-cidr:203.0.113.0/24")
    assert all(c["src_ip"] == "203.0.113.9" for c in fields(done.out)) and done.out
    assert any("not outbound (-I pcap:local-cidr)" in line for line in done.err)


def test_addresses_that_were_said_count_more_than_the_link_layer() -> None:
    """The packet that came in is of the host that was named, the one that was sent is not."""
    assert destinations(read(DATA / "pc05_sll113.pcap", "local-cidr:203.0.113.0/24")) == [
        ("192.168.1.10", "22")
    ]


def test_what_opens_nothing_is_not_called_unreadable() -> None:
    """Later packets of TCP are skipped, as with nflog."""
    done = read(DATA / "pc12_flags.pcap")
    assert any("skipped: 4 pcap: packets of TCP that open no connection" in line for line in done.err)
    assert not any("unreadable" in line for line in done.err)


def datagrams(tmp_path: Path, seconds: int, each: int) -> Path:
    """A capture with a new flow a second, of some packets."""
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    path = tmp_path / "datagrams.pcap"
    records = []
    for second in range(seconds):
        frame = ethernet(ipv4(udp(1024 + second), UDP))
        records.append(struct.pack("<IIII", 1_700_000_000 + second, 0, len(frame), len(frame)) + frame)
    path.write_bytes(head + b"".join(record * each for record in records))
    return path


def test_windows_end_by_the_time_of_the_packets(tmp_path: Path) -> None:
    """A table that holds the flows of some windows loses none of a long file."""
    done = read(datagrams(tmp_path, seconds=200, each=100), "flows:100")
    assert sum(int(c["count"]) for c in fields(done.out)) == 200 * 100
    assert not any("lost" in line for line in done.err)


def test_windows_end_while_a_pipe_is_silent(tmp_path: Path) -> None:
    """What tcpdump writes to us is told of when its window is over, not when tcpdump ends."""
    options = ("-I", "pcap:quiet:true", "-I", "pcap:window:1s")
    command = [sys.executable, "-m", "pyegress", "run", "-o", "logfmt", "--pcap", "-", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(datagrams(tmp_path, seconds=1, each=5).read_bytes())
        lines = [process.stdout.readline().decode()]
        if select.select([process.stdout], [], [], PATIENCE_S)[0]:
            lines.append(process.stdout.readline().decode())
        process.stdin.close()
        assert process.stdout.read() == b""
    assert [c["count"] for c in fields(lines)] == ["1", "4"]


def test_filters_are_those_of_ebpf() -> None:
    """By port and network."""
    assert destinations(read(DATA / "pc12_flags.pcap", "ignore-port:443")) == [(FAR, "993")]
    assert destinations(read(DATA / "pc12_flags.pcap", f"ignore-cidr:{FAR}")) == []


def test_compressed_and_standard_input(tmp_path: Path) -> None:
    """A gzip file by name, and any capture on stdin."""
    raw = (DATA / "pc12_flags.pcap").read_bytes()
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(raw))
    assert destinations(read(packed)) == destinations(read("-", data=raw)) == [(FAR, "443"), (FAR, "993")]


def test_rules_come_out_at_the_end_of_a_file() -> None:
    """An OUTPUT chain from a capture, exit status 0."""
    command = [sys.executable, "-m", "pyegress", "-o", "iptables", "--pcap", str(DATA / "pc12_flags.pcap")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split("--dport ")[1].split()[0] for line in done.stdout.splitlines()] == ["443", "993"]


@pytest.mark.parametrize("made", ["missing", "empty", "text", "folder"])
def test_what_is_no_capture_is_one_clear_line(made: str, tmp_path: Path) -> None:
    """Exit status 1, the name of the file, no traceback."""
    path = tmp_path / "x.pcap"
    if made == "folder":
        path.mkdir()
    elif made != "missing":
        path.write_text("no capture\n" * 100 if made == "text" else "")
    done = read(path)
    assert done.code == 1 and done.out == []
    (line,) = [line for line in done.err if "x.pcap" in line]
    assert "Traceback" not in "".join(done.err)
    assert line.startswith("pyegress: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give either device or file"),
        ([("device", "lo"), ("file", "x")], "give either device or file"),
        ([("device", "lo"), ("local-cidr", "10.0.0.0/8")], "local-cidr is for files"),
    ],
)
def test_options_that_contradict(given: list[tuple[str, str]], message: str) -> None:
    """One source, and addresses only for a file."""
    with pytest.raises(UsageError, match=message):
        parse("-I", "pcap", PcapOptions, given)


@pytest.fixture
def netns() -> Iterator[Island]:
    """A namespace with a device that swallows everything."""
    with island() as made:
        yield made


LIVE = ("-o", "logfmt", "-i", "pcap", "-I", "pcap:quiet:true")


def live(audit: Audit) -> list[tuple[str, str, str, str]]:
    """What was seen of a device, once it has ended well."""
    done = audit.stop()
    assert done.code == 0, done.err
    found = fields(done.out)
    return sorted((c["protocol"], c["dest_ip"], c["dest_port"], c.get("proc_name", "")) for c in found)


@needs_root
@pytest.mark.parametrize("device", ["swallow", "any"])
def test_device_with_processes(netns: Island, device: str) -> None:
    """Both families, TCP and UDP, found by their sockets."""
    words = ("tcp", FAR_4, 443, "tcp", FAR_6, 443, "udp", FAR_4, 53, "mapped", FAR_4, 54)
    with netns.audit(*LIVE, "-I", f"pcap:device:{device}") as audit, netns.client("wanderer", *words) as pid:
        assert live(audit) == [
            ("tcp", FAR_4, "443", "wanderer"),
            ("tcp", FAR_6, "443", "wanderer"),
            ("udp", FAR_4, "53", "wanderer"),
            ("udp", FAR_4, "54", "wanderer"),
        ]
    assert {c["proc_pid"] for c in fields(audit.done.out)} == {str(pid)}
    assert {c["src_ip"] for c in fields(audit.done.out) if c["ip_version"] == "4"} == {LOCAL_4}


@needs_root
@pytest.mark.parametrize("device", ["lo", "any"])
def test_loopback_is_seen_once(netns: Island, device: str) -> None:
    """A connection that leaves and arrives by lo is one event."""
    words = ("listen", "127.0.0.1", 9, "tcp", "127.0.0.1", 9, "udp", "::1", 9)
    options = ("-I", f"pcap:device:{device}", "-I", "pcap:allow-loopback:true")
    with netns.audit(*LIVE, *options) as audit, netns.client("a", *words):
        assert live(audit) == [("tcp", "127.0.0.1", "9", "a"), ("udp", "::1", "9", "a")]


@needs_root
def test_tagged_frames_are_not_lost(netns: Island) -> None:
    """The kernel's filter keeps packets with one and with two VLAN tags, in the bytes of the frame."""
    code = """
import socket, sys
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
made.bind(("swallow", 0))
for line in sys.stdin:
    made.send(bytes.fromhex(line))
"""
    ethernet = "020000000002020000000001"
    syn = "0800450000280001000040060000c0000207c63364099c40{:04x}00000001000000005002faf000000000"
    frames = [
        ethernet + tag + syn.format(port) for tag, port in (("8100001f", 1), ("88a8001f81000020", 2), ("", 3))
    ]
    with netns.audit(*LIVE, "-I", "pcap:device:swallow") as audit:
        netns.run(sys.executable, "-c", code, text="\n".join(frames))
        assert [port for _, _, port, _ in live(audit)] == ["1", "2", "3"]


@needs_root
@pytest.mark.parametrize("stopping", [False, True])
def test_flood_keeps_nobody_from_looking_around(monkeypatch: pytest.MonkeyPatch, stopping: bool) -> None:
    """Packets that come faster than they are read are taken in parts; at the end no later ones are taken."""
    later = bytes(40) + struct.pack("<Q", 1 << 63) + bytes(16)

    class Endless:
        def __init__(self, device: object) -> None:
            pass

        def read(self) -> Iterator[memoryview]:
            for _ in range(100):
                yield memoryview((later if stopping else bytes(64)) * 4096)
            raise AssertionError

    monkeypatch.setattr(pcap, "Capture", Endless)
    source = pcap._DeviceSource(PcapOptions(device="lo"), Context(Losses(), print, print))
    source.stopping = stopping
    source._receive()
    source.close()


@needs_root
def test_failed_open_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device and pipe are let go where sockets can't be asked for."""

    def fails(*given: object) -> None:
        raise UnsupportedError("no sock_diag")

    monkeypatch.setattr(pcap, "Observer", fails)
    before = list(Path("/proc/self/fd").iterdir())
    made = pcap.Pcap(PcapOptions(device="lo"))
    with pytest.raises(UnsupportedError, match="no sock_diag"):
        made.open(Context(Losses(), print, print))
    made.close()
    assert list(Path("/proc/self/fd").iterdir()) == before


def test_progress_is_complete_when_it_ends(tmp_path: Path) -> None:
    """Also where it is stopped, so that no bar is left when rules are printed."""
    said: list[tuple[int, int | None]] = []
    path = datagrams(tmp_path, seconds=10, each=1000)
    made = pcap.Pcap(PcapOptions(file=str(path)))
    made.open(Context(Losses(), print, print, lambda done, total: said.append((done, total))))
    batches = made.read()
    next(batches)
    made.stop()
    assert list(batches)
    made.close()
    assert all(total == path.stat().st_size > done for done, total in said[:-1])
    assert said[-1][0] == said[-1][1]


@pytest.mark.parametrize("name", ["nope.pcapng", "nope.PCAP", "x" * 5000 + ".gz"])
def test_file_that_is_not_there_is_no_device(name: str) -> None:
    """By its ending."""
    command = [sys.executable, "-m", "pyegress", "run", "--pcap", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pyegress: cannot open ")


def test_device_is_meant_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--pcap lo` is the device wherever one stands."""
    monkeypatch.chdir(tmp_path)
    for name in ("lo", "any", "capture"):
        Path(name).touch()
    assert [is_capture_file(name) for name in ("lo", "any", "capture", "./lo", "-", "x" * 5000)] == [
        *(False, False, True, True, True, False)
    ]


@needs_root
def test_inbound_is_not_reported(netns: Island) -> None:
    """Neither what comes in, nor our answer to it."""
    code = """
import socket, sys
made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
made.bind(("swallowed", 0))
made.send(bytes.fromhex(sys.argv[1]))
"""
    udp = "ffffffffffff0200000000010800" + "4500001d00010000401100 00c6336409c0000207".replace(" ", "")
    with netns.audit(*LIVE, "-I", "pcap:device:swallow") as audit:
        netns.python(code, udp + "1388138800090000" + "78")
        assert live(audit) == []
    assert any("not outbound" in line for line in audit.done.err)


@needs_root
def test_device_that_is_not_there(netns: Island) -> None:
    """One line with its name."""
    command = netns.inside(sys.executable, "-m", "pyegress", "run", "--pcap", "nope0")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no device nope0" in done.stderr and len(done.stderr.splitlines()) == 1

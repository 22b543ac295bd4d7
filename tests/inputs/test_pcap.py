# SPDX-License-Identifier: MIT
"""The pcap input: what a capture file's packets come to, and a real device in a network namespace of its own."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress.errors import UsageError
from pyegress.inputs.pcap import PcapOptions
from pyegress.options import parse
from tests.island import FAR_4, FAR_6, LOCAL_4, Audit, Done, Island, fields, island

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

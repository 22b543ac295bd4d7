# SPDX-License-Identifier: MIT
"""Live capture: a real device in a namespace of its own, what its filter keeps, and errors that name the cause."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pyegress import device as device_module
from pyegress.device import SNAPLEN, Device, HostAddresses
from pyegress.errors import InputError
from tests.netns import add_link, own_netns, run
from tests.test_destinations import packed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PATIENCE_S = 30
NANOSECOND_MAGIC = 0xA1B23C4D
FILE_HEADER, RECORD_HEADER = 24, 16


@pytest.fixture(autouse=True)
def _island() -> Iterator[None]:
    with own_netns():
        yield


def frames(device: Device, count: int) -> list[tuple[int, bytes]]:
    """The first packets that a device gives: time in ns, and bytes."""
    data, view = b"", memoryview(bytearray(1 << 16))
    found: list[tuple[int, bytes]] = []
    until = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < until
        select.select([device], [], [], 1)
        came = device.read_into(view)
        data += bytes(view[:came]) if came else b""
        found.clear()
        at = FILE_HEADER
        while at < len(data):
            seconds, nanoseconds, length, _ = struct.unpack_from("=IIII", data, at)
            found.append((seconds * 10**9 + nanoseconds, data[at + RECORD_HEADER :][:length]))
            at += RECORD_HEADER + length
    assert struct.unpack_from("=I", data)[0] == NANOSECOND_MAGIC
    return found


def test_only_what_may_open_a_connection_is_captured() -> None:
    """Datagrams, and of a TCP connection the SYN alone; with nanoseconds, cut to the headers."""
    device = Device("lo", 1 << 20)
    before_ns = time.time_ns()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        client.sendall(b"x" * 5000)
        sender.sendto(b"y" * 1000, ("::1", 9))
        found = frames(device, 2)
    device.close()
    assert [packet[14 + 9] for _, packet in found[:1]] == [6]  # IPv4's protocol
    assert [packet[14 + 6] for _, packet in found[1:]] == [17]  # IPv6's next header
    assert len(found[1][1]) == SNAPLEN
    assert all(before_ns <= ts <= time.time_ns() for ts, _ in found)
    assert len({ts % 1000 for ts, _ in found} | {-1}) > 1


def test_tagged_packets_pass_the_filter() -> None:
    """With one VLAN tag and with two; a tagged packet of other traffic does not."""
    add_link()
    run("ip link set out0 arp off")
    device = Device("out0", 1 << 20)
    udp = bytes.fromhex(
        "080045000020000100004011000000c0000207c6336409".replace("0011000000c0", "00110000c0")
    )
    tags = {b"\x81\x00\x00\x1f": True, b"\x88\xa8\x00\x1f\x81\x00\x00\x20": True, b"": True}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("out0", 0))
        for tag in tags:
            sender.send(bytes(12) + tag + udp.ljust(22, b"\0") + struct.pack("!HHHH", 5, 53, 12, 0) + b"abcd")
            ack = bytes.fromhex("08004500002800010000400600 00c0000207c6336409".replace(" ", ""))
            sender.send(bytes(12) + tag + ack + struct.pack("!HHIIHHHH", 5, 80, 1, 1, 0x5010, 9, 0, 0))
        found = [packet for _, packet in frames(device, len(tags))]
    device.close()
    assert all(b"abcd" in packet for packet in found)
    assert len(found) == len(tags)


def test_tag_that_the_kernel_took_off_passes_the_filter() -> None:
    """As of frames that come in: it is beside the bytes, and put back."""
    add_link()
    device = Device("out0", 1 << 20)
    packet = "4500001c0001000040110000c0000207c0000201" + "1388003500080000"
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("out1", 0))
        sender.send(bytes.fromhex("ff" * 6 + "02" * 6 + "8100001f0800" + packet).ljust(60, b"\0"))
        ((_, found),) = frames(device, 1)
    device.close()
    assert found[12:18].hex() == "8100001f0800"


def test_drops_are_counted() -> None:
    """What a full buffer had no room for is in the device's statistics."""
    device = Device("lo", 1 << 16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(5000):
            sender.sendto(b"x", ("127.0.0.1", 9))
    assert device.drops().full > 0
    device.close()


def test_device_that_is_down() -> None:
    """Named, with the way on."""
    run("ip link set lo down")
    with pytest.raises(InputError, match="device lo is down; ip link set lo up"):
        Device("lo", 1 << 20)


def test_what_libpcap_reads_wrongly_has_an_input_of_its_own() -> None:
    """The way on is named."""
    with pytest.raises(InputError, match="device nflog:7: use --nflog 7"):
        Device("nflog:7", 1 << 20)


def test_pipe_that_can_not_be_made_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and nothing waits for itself."""
    monkeypatch.setattr(device_module, "_PIPE_BYTES", (1 << 31) + 1)
    device = Device("lo", 1 << 20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(1000):
            sender.sendto(bytes(SNAPLEN), ("127.0.0.1", 9))
    assert len(frames(device, 1000)) == 1000
    device.close()


@pytest.mark.parametrize("name", ["nope", "x" * 100, "a\x1bb"])
def test_device_that_is_not_there(name: str) -> None:
    """Named, escaped."""
    with pytest.raises(InputError, match=r"^[ -~]*(no device|device) [ -~]*$"):
        Device(name, 1 << 20)


def test_addresses_of_the_host_are_known() -> None:
    """Its own in both families, also one that comes later; not the other end's."""
    is_local = HostAddresses()
    assert is_local(packed("127.0.0.1")) and is_local(packed("::1"))
    assert not is_local(packed("192.0.2.1"))
    add_link()
    until = time.monotonic() + PATIENCE_S
    while not is_local(ip_address("fd00::1").packed):  # it looks again once a second
        assert time.monotonic() < until
    assert is_local(packed("192.0.2.1"))
    assert not is_local(packed("192.0.2.2"))

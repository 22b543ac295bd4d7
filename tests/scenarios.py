# SPDX-License-Identifier: MIT
"""Ways to send: a table to score an audit by, with who sends what where, and the network in a guest to do it in.

After picosnitch's public list of what monitors of connections see and miss.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.traffic import TrafficError, held, short, traffic, words

V4, V6, HERE = "192.0.2.1", "2001:db8::1", "127.0.0.1"
SINK, SINK_6 = "198.51.100.7", "2001:db8:1::7"
"""Nobody has these addresses; the first is routed to a device that swallows all."""
DEVICE = "swallow"
"""Where frames go: see tests.kernel.observing.lay_routes."""
PORT, CLOSED = 7777, 7
"""The server's, and nobody's."""
BOX = "pyegress-box"
_PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
_BYTES = 1 << 20
_BOX = f"""
set -e
ip netns add {BOX}
ip link add boxes type bridge
ip address add 10.123.0.1/24 dev boxes
ip link set boxes up
ip link add box0 type veth peer name boxed netns {BOX}
ip link set box0 master boxes up
ip -n {BOX} link set lo up
ip -n {BOX} address add 10.123.0.2/24 dev boxed
ip -n {BOX} link set boxed up
ip -n {BOX} route add default via 10.123.0.1
# Without it answers come from ::1.
ip address add {V6}/128 dev lo nodad
"""


class Scenario(NamedTuple):
    """One way, and what an audit has to tell of it."""

    name: str
    """Of its processes, too: at most 15 bytes."""
    what: str
    command: str
    """Of tests/traffic.c."""
    protocol: str
    """As records name it."""
    address: str
    port: int | None
    calls: int = 1
    """Connects, each to be told; or datagrams, to be counted."""
    flows: int = 0
    """How many processes send datagrams, each to one destination; 0: they are connects."""
    by_cgroup: int | None = None
    """Calls that pyegress's cgroup hooks see, where these are not the same."""
    in_box: bool = False
    """In a network namespace behind a bridge, as containers are."""


class Truth(NamedTuple):
    """What a run of one did."""

    pids: frozenset[int]
    """Of all its processes."""
    said: dict[str, str]


def _tcp(name: str, what: str, command: str, address: str = V4, calls: int = 1, port: int = PORT) -> Scenario:
    return Scenario(name, what, command, "tcp", address, port, calls)


def _udp(
    name: str,
    what: str,
    command: str,
    address: str = V4,
    calls: int = 500,
    port: int = PORT,
    by_cgroup: int | None = None,
) -> Scenario:
    return Scenario(name, what, command, "udp", address, port, calls, 1, by_cgroup)


def _other(
    name: str,
    what: str,
    command: str,
    protocol: str,
    address: str = V4,
    port: int | None = None,
    by_cgroup: int | None = 0,
) -> Scenario:
    return Scenario(name, what, command, protocol, address, port, 5, 1, by_cgroup)


def _packet(name: str, what: str, address: str, how: str = "") -> Scenario:
    return _other(name, what, f"packet {DEVICE} {address} 4242 5 {how}", "packet-udp", address, 4242)


SCENARIOS = (
    _tcp("tcp-up", "bulk upload", f"upload {V4} {PORT} {_BYTES}"),
    _tcp("tcp-down", "bulk download", f"download {V4} {PORT} {_BYTES}"),
    _tcp("tcp6-up", "bulk upload, IPv6", f"upload {V6} {PORT} {_BYTES}", V6),
    _tcp("tcp6-down", "bulk download, IPv6", f"download {V6} {PORT} {_BYTES}", V6),
    _tcp("tcp-refused", "connect to a closed port", f"tcp {V4} {CLOSED}", port=CLOSED),
    _tcp("tcp-nonblock", "non-blocking connects", f"nonblock {V4} {PORT} 3", calls=3),
    _tcp("tcp-many", "60 connects of one process", f"tcp {V4} {PORT} 60", calls=60),
    _tcp("tcp-short", "20 processes that live a moment", f"storm {{short}} tcp {V4} {PORT} 20 200", calls=20),
    _tcp("tcp-burst", "30 processes at once", f"storm {{short}} tcp {V4} {PORT} 30 0", calls=30),
    _tcp("tcp-threads", "20 threads at once", f"tcpthreads {V4} {PORT} 20", calls=20),
    _tcp("tcp-sendfile", "sendfile", f"upload {V4} {PORT} {_BYTES} --sendfile"),
    _tcp("tcp-splice", "splice from the socket", f"download {V4} {PORT} {_BYTES} --splice"),
    _tcp("tcp-uring", "io_uring's connect", f"iouring {V4} {PORT}"),
    _tcp("tcp-uring-work", "io_uring's connect by a worker", f"iouring {V4} {PORT} --async"),
    _tcp("tcp-fastopen", "fast open by sendto", f"fastopen {V4} {PORT}"),
    _tcp("tcp-deferred", "fast open, connect deferred", f"fastopenconnect {V4} {PORT}"),
    _tcp("mptcp", "MPTCP", f"mptcp {V4} {PORT}"),
    _tcp("tcp-loopback", "over lo", f"upload {HERE} {PORT} {_BYTES}", HERE),
    _tcp("tcp-container", "out of a container", f"upload {V4} {PORT} {_BYTES}")._replace(in_box=True),
    _udp("udp-to", "sendto", f"udp {V4} {PORT} 500"),
    _udp("udp6-to", "sendto, IPv6", f"udp {V6} {PORT} 500", V6),
    _udp("udp-conn", "connected", f"udpconn {V4} {PORT} 500", by_cgroup=1),
    _udp("udp6-conn", "connected, IPv6", f"udpconn {V6} {PORT} 500", V6, by_cgroup=1),
    _udp("udp-small", "a flood to port 53", f"udp {V4} 53 2000", calls=2000, port=53),
    _udp("udp-mmsg", "sendmmsg", f"sendmmsg {V4} {PORT} 500"),
    _udp("udp-uring", "io_uring's sendmsg", f"iouringsend {V4} {PORT} 20", calls=20),
    _udp("udp-bulk", "QUIC-like bulk", f"bulkudp {SINK} 443 2000", SINK, 2000, 443, by_cgroup=1),
    # A send that the kernel cuts into 16 datagrams is one.
    _udp(
        "udp-gso",
        "the same, cut by the kernel",
        f"bulkudp {SINK} 443 1600 --gso",
        SINK,
        100,
        443,
        by_cgroup=1,
    ),
    _udp("udp-down", "asked for, then received", f"bulkudp {V4} {PORT} 200 --back", calls=1),
    _udp("udp6-down", "the same, IPv6", f"bulkudp {V6} {PORT} 200 --back", V6, calls=1),
    _udp("udp-fork", "a grandchild", f"forkdeep {V4} {PORT} 2", calls=1),
    _udp("udp-container", "out of a container", f"udp {V4} {PORT} 5", calls=5)._replace(in_box=True),
    _other("udplite", "UDP-Lite", f"udplite {V4} {PORT} 5", "136", port=PORT, by_cgroup=None),
    _other("udplite6", "UDP-Lite, IPv6", f"udplite {V6} {PORT} 5", "136", V6, PORT, None),
    _other("ping", "ping socket", f"ping {V4} 5", "1"),
    _other("ping6", "ping socket, IPv6", f"ping {V6} 5", "58", V6),
    _other("ping-conn", "connected ping socket", f"pingconn {V4} 5", "1"),
    _other("icmp-raw", "ICMP by a raw socket", f"raw {V4} 1 5", "1"),
    _other("icmp6-raw", "ICMPv6 by a raw socket", f"raw {V6} 58 5", "58", V6),
    _other("raw", "IP protocol 253", f"raw {V4} 253 5", "253"),
    _other("raw6", "IP protocol 253, IPv6", f"raw {V6} 253 5", "253", V6),
    # The message's name is another address: on the wire is what the header says.
    _other("raw-written", "own IP header", f"written 192.0.2.2 {V4} 4242 5", "udp", V4, 4242),
    _other("raw6-written", "own IPv6 header", f"written 2001:db8::2 {V6} 4242 5", "udp", V6, 4242),
    Scenario("sctp", "SCTP", f"sctp {V4} {CLOSED}", "132", V4, CLOSED, by_cgroup=0),
    Scenario("sctp6", "SCTP, IPv6", f"sctp {V6} {CLOSED}", "132", V6, CLOSED, by_cgroup=0),
    Scenario("sctp-to", "SCTP without connect", f"sctpto {V4} {CLOSED}", "132", V4, CLOSED, by_cgroup=0),
    _packet("packet", "AF_PACKET", SINK),
    _packet("packet6", "AF_PACKET, IPv6", SINK_6),
    _packet("packet-vlan", "AF_PACKET, with a VLAN", SINK, "--vlan"),
    _packet("packet-cooked", "AF_PACKET, without link header", SINK, "--cooked"),
)


@contextmanager
def network() -> Iterator[None]:
    """All that the scenarios need beside the routes of tests.kernel.observing, undone in the end but for modules."""
    groups = _PING_GROUPS.read_text()
    _PING_GROUPS.write_text("0 2147483647")
    subprocess.run(["modprobe", "-a", "sctp", "bridge", "veth"], check=True)
    subprocess.run(["sh", "-c", _BOX], check=True)
    try:
        with held("serve", PORT):
            yield
    finally:
        _PING_GROUPS.write_text(groups)
        for line in f"address delete {V6}/128 dev lo", "link delete boxes", f"netns delete {BOX}":
            subprocess.run(["ip", *line.split()], check=True)


def run(scenario: Scenario) -> Truth:
    """Have it done; raises TrafficError where it can't be."""
    command = scenario.command.format(short=short()).split()
    inside = ("ip", "netns", "exec", BOX) if scenario.in_box else ()
    line = [*inside, traffic(), "named", scenario.name, *command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise TrafficError(scenario.name, done)
    said = words(" ".join(done.stdout.split()))
    pids = [said["pid"], *(said["pids"].split(",") if "pids" in said else ())]
    return Truth(frozenset(map(int, pids)), said)

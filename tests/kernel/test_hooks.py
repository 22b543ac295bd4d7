# SPDX-License-Identifier: MIT
"""What the hooks report on real kernels, by fentry and by kprobe: CASES section A and the shapes of traffic."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.errors import UnsupportedError
from pyegress.options import Ports
from pyegress.session import rule_out
from tests import traffic
from tests.kernel.observing import BLACKHOLE, UNREACHABLE, Observed, made, observe

pytestmark = [
    pytest.mark.guest("6.1", "6.12"),
    pytest.mark.parametrize("kind", ["fentry", "kprobe"]),
    pytest.mark.usefixtures("routes"),
]

V4, V6 = "192.0.2.1", "2001:db8::1"


def ports(connections: Observed) -> list[int | None]:
    """Their destination ports."""
    return [c.dest_port for c in connections]


def test_kind_that_attaches_is_not_ruled_out(kind: str) -> None:
    """What the start looks at first knows a kernel that takes these hooks."""
    rule_out(kind)


@pytest.mark.parametrize("address", [V4, V6])
def test_tcp_connects_are_reported_with_their_source(kind: str, address: str) -> None:
    """Every connect is one event, with the source the kernel chose."""
    seen, truth = made(kind, "tcp", address, 7, 3)
    assert seen.destinations() == [("tcp", address, 7)] * 3
    assert [str(c.src_port) for c in seen] == truth["sports"].split(",")
    assert all(c.ip_version == ipaddress.ip_address(address).version for c in seen)
    assert all(c.src_ip for c in seen)


def test_process_of_a_connection(kind: str) -> None:
    """Who connected comes with the event: numbers, names, rights, group, namespace and parents."""
    seen, truth = made(kind, "tcp", V4, 7)
    (connection,) = seen
    process = connection.process
    assert process is not None and process.parent is not None
    assert (process.pid, connection.tid) == (int(truth["pid"]), int(truth["tid"]))
    assert (process.comm, process.name) == ("traffic", "traffic")
    assert (process.uid, process.gid, process.user) == (0, 0, "root")
    assert process.cgroup_id and process.start_ns
    assert process.parent.pid == os.getpid()
    assert connection.netns == Path("/proc/self/ns/net").stat().st_ino
    assert connection.attribution == "kernel"


def test_process_still_running_has_its_command_line(kind: str) -> None:
    """Where /proc still has the process, its arguments and its ancestors' are taken from there."""
    code = "import socket; socket.socket(type=2).sendto(b'', ('192.0.2.1', 7)); print(flush=True); input()"
    children: list[subprocess.Popen[bytes]] = []

    def act() -> None:
        children.append(
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        stdout = children[0].stdout
        assert stdout is not None and stdout.readline() == b"\n"

    seen = observe(kind, act)
    with children[0] as child:
        seen = seen.of(child.pid)
        child.communicate(b"\n")
    (connection,) = seen
    process = connection.process
    assert process is not None and process.cmdline is not None and "input()" in process.cmdline
    assert process.parent is not None and process.parent.cmdline is not None
    assert "pytest" in process.parent.cmdline
    assert process.parent.parent is not None and process.parent.parent.pid == os.getppid()


def test_nonblocking_connects(kind: str) -> None:
    """A non-blocking connect is a connect."""
    seen, _ = made(kind, "nonblock", BLACKHOLE, 7, 3)
    assert seen.destinations() == [("tcp", BLACKHOLE, 7)] * 3
    assert [c.result for c in seen] == [None] * 3


def test_connect_that_fails_at_once_has_its_result(kind: str) -> None:
    """What was wanted is reported even where there is no way, and says so."""
    seen, truth = made(kind, "tcp", UNREACHABLE, 7)
    assert truth["errnos"] == "ENETUNREACH"
    assert [(c.dest_ip, c.result) for c in seen] == [(UNREACHABLE, "ENETUNREACH")]


@pytest.mark.parametrize("command", ["fastopen", "fastopenconnect"])
def test_fast_open_is_one_connect(kind: str, command: str) -> None:
    """TCP fast open, both ways of asking for it, is one event."""
    seen, _ = made(kind, command, V4, 7)
    assert seen.destinations() == [("tcp", V4, 7)]


def test_fast_open_without_cookie_is_one_connect(kind: str) -> None:
    """A connect deferred to the first data is one event."""
    seen, _ = made(kind, "fastopenconnect", V4, 7, "--nocookie")
    assert seen.destinations() == [("tcp", V4, 7)]


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("command", ["udp", "udpconn"])
def test_udp_is_a_flow(kind: str, command: str, address: str) -> None:
    """Datagrams of one flow are one event at the first, and their number in the last."""
    seen, truth = made(kind, command, address, 9, 5)
    assert seen.destinations() == [("udp", address, 9)] * 2
    assert [c.count for c in seen] == [1, 4]
    assert str(seen[0].src_port) == truth["sports"].split(",")[-1]


def test_window_of_zero_reports_each_datagram(kind: str) -> None:
    """-I ebpf:window:0 is one event a datagram."""
    seen, _ = made(kind, "udp", V4, 9, 5, window=0)
    assert [c.count for c in seen] == [1] * 5


def test_window_that_ends_is_reported_again(kind: str) -> None:
    """A steady flow is reported again after each window, with no datagram missing."""
    seen, _ = made(kind, "udpburst", V4, 9, 2000, window=1_000_000)
    assert len(seen) > 2
    assert sum(c.count for c in seen) == 2000


def test_sendmmsg_counts_every_message(kind: str) -> None:
    """sendmmsg is that many datagrams."""
    seen, _ = made(kind, "sendmmsg", V4, 9, 50)
    assert sum(c.count for c in seen) == 50
    assert set(seen.destinations()) == {("udp", V4, 9)}


@pytest.mark.parametrize("command", ["gso", "cork"])
def test_segmented_and_corked_sends_are_one_flow(kind: str, command: str) -> None:
    """What the kernel puts together or apart below the send is still one flow."""
    seen, _ = made(kind, command, V4, 9, 8)
    assert set(seen.destinations()) == {("udp", V4, 9)}


def test_reused_port_keeps_flows_to_their_process(kind: str) -> None:
    """Two sockets on one port are told apart by nothing but their process, which is the same here."""
    seen, _ = made(kind, "reuseport", V4, 9, 3)
    assert sum(c.count for c in seen) == 6


@pytest.mark.parametrize("command", ["mapped", "mappedconn", "afinet6sock"])
def test_case_2_ipv4_on_an_ipv6_udp_socket_is_one_ipv4_event(kind: str, command: str) -> None:
    """IPv4 over an AF_INET6 socket is IPv4, once, however the address was given."""
    seen, _ = made(kind, command, V4, 9)
    assert seen.destinations() == [("udp", V4, 9)]
    assert seen[0].ip_version == 4


def test_case_2_mapped_tcp_is_one_ipv4_event(kind: str) -> None:
    """The same for TCP."""
    seen, truth = made(kind, "mappedtcp", V4, 7)
    assert seen.destinations() == [("tcp", V4, 7)]
    assert str(seen[0].src_port) == truth["sports"]


def test_ipv4_address_refused_by_an_ipv6_tcp_socket_is_nothing(kind: str) -> None:
    """What the kernel refuses for its family is never read as IPv6."""
    seen, _ = made(kind, "afinettcp", V4, 7)
    assert seen == []


def test_unspecified_family_on_ipv4_is_ipv4(kind: str) -> None:
    """AF_UNSPEC in sendto passes for AF_INET, as in the kernel."""
    seen, _ = made(kind, "afunspec", V4, 9)
    assert seen.destinations() == [("udp", V4, 9)]


def test_case_4_message_address_wins(kind: str) -> None:
    """A datagram to B on a socket connected to A goes to B, the next one to A."""
    seen, _ = made(kind, "redirect", V4, 9, "192.0.2.2", 10)
    assert seen.destinations() == [("udp", "192.0.2.2", 10), ("udp", V4, 9)]


@pytest.mark.parametrize("port", [0, 9])
def test_case_6_udp_connect_alone_is_no_connection(kind: str, port: int) -> None:
    """Nothing left the host, so nothing is reported, and never port 0."""
    seen, _ = made(kind, "udpconnonly", V4, port)
    assert seen == []


@pytest.mark.parametrize("how", [(), ("--async",)], ids=["inline", "worker"])
def test_case_8_io_uring_connect_is_the_programs(kind: str, how: tuple[str, ...]) -> None:
    """A connect made by an io_uring worker is its program's, once."""
    seen, truth = made(kind, "iouring", V4, 7, *how)
    assert seen.destinations() == [("tcp", V4, 7)]
    process = seen[0].process
    assert process is not None and (process.pid, process.name) == (int(truth["pid"]), "traffic")


def test_case_10_unknown_source_is_left_out(kind: str) -> None:
    """An unbound UDP socket has a port but no address yet: the address is absent, not 0.0.0.0."""
    seen, truth = made(kind, "udp", V4, 9)
    assert [(c.src_ip, str(c.src_port)) for c in seen] == [(None, truth["sports"])]


def test_case_11_two_hundred_threads_at_once(kind: str) -> None:
    """200 threads in connect to a blackhole are 200 events, each with its own thread."""
    seen, truth = made(kind, "tcpthreads", BLACKHOLE, 7, 200)
    assert seen.destinations() == [("tcp", BLACKHOLE, 7)] * 200
    assert {str(c.tid) for c in seen} == set(truth["tids"].split(","))


def test_case_12_kernel_made_connection(kind: str) -> None:
    """An NFS mount connects from a worker thread: reported as the kernel's, under a stable name."""
    libc = ctypes.CDLL(None, use_errno=True)
    subprocess.run(["modprobe", "nfsv4"], check=True)

    def act() -> None:
        child = os.fork()
        if child == 0:
            signal.alarm(3)
            libc.mount(
                b"192.0.2.1:/x", b"/mnt", b"nfs4", 0, b"vers=4.1,addr=192.0.2.1,clientaddr=192.0.2.9,soft"
            )
            os._exit(0)
        os.waitpid(child, 0)

    seen = [c for c in observe(kind, act) if c.dest_port == 2049]
    assert seen
    assert {(c.process.kernel, c.process.name, c.process.cmdline) for c in seen if c.process} == {
        (True, "kworker", None)
    }


def test_case_14_missing_function_is_named(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A function that the compiler renamed is named and left out; the others are attached."""
    _rename(monkeypatch, tmp_path, b"tcp_v6_connect")
    seen = observe(kind, lambda: traffic.run("tcpaddrs", 7, V4, V6))
    assert seen.destinations() == [("tcp", V4, 7)]
    assert [n for n in seen.notices if "tcp_v6_connecX" in n]


def test_case_14_nothing_left_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no function is left, that is one error."""
    _rename(monkeypatch, tmp_path, b"tcp_v6_connect", b"tcp_v4_connect", b"udp_sendmsg", b"udpv6_sendmsg")
    with pytest.raises(UnsupportedError, match="nothing could be attached"):
        observe(kind, lambda: None)


def _rename(monkeypatch: pytest.MonkeyPatch, folder: Path, *functions: bytes) -> None:
    from pyegress import _native

    for name in ("BPF_OBJECT", "CAST_OBJECT"):
        data = getattr(_native, name).read_bytes()
        for function in functions:
            data = data.replace(b"/" + function + b"\0", b"/" + function[:-1] + b"X\0")
        (folder / name).write_bytes(data)
        monkeypatch.setattr(_native, name, folder / name)


def test_case_21_ports_are_compared_in_one_byte_order(kind: str) -> None:
    """ignore-port:53 hides 53 and not 13568, whose bytes are the same in the other order."""

    def act() -> None:
        for port in (53, 13568):
            traffic.run("udp", V4, port)
        for port in (443, 47873):
            traffic.run("tcp", V4, port)

    seen = observe(kind, act, ignore_port=(Ports(53, 53), Ports(443, 443)))
    assert ports(seen) == [13568, 47873]


@pytest.mark.parametrize(
    "prefix",
    [
        "192.0.2.64/26",
        "192.0.2.0/25",
        "192.0.2.96/32",
        "192.0.2.128/25",
        "2001:db8:0:1::/64",
        "2001:db8::/127",
    ],
)
@pytest.mark.parametrize("option", ["ignore_cidr", "only_cidr"])
def test_prefix_edges(kind: str, option: str, prefix: str) -> None:
    """The first and last address of a prefix are in it, their neighbours are not."""
    network = ipaddress.ip_network(prefix)
    candidates = [network[0] - 1, network[0], network[-1], network[-1] + 1]
    routed = ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")
    tried = list(dict.fromkeys(a for a in candidates if any(a in r for r in routed)))
    seen = observe(kind, lambda: traffic.run("tcpaddrs", 7, *map(str, tried)), **{option: (network,)})
    wanted = [str(a) for a in tried if (a in network) == (option == "only_cidr")]
    assert [c.dest_ip for c in seen] == wanted


def test_ignore_wins_over_only(kind: str) -> None:
    """An ignored prefix stays hidden inside an only-cidr, and around a narrower one."""
    seen = observe(
        kind,
        lambda: traffic.run("tcpaddrs", 7, "192.0.2.1", "192.0.2.65", "192.0.2.70", "192.0.2.129"),
        only_cidr=(ipaddress.ip_network("192.0.2.0/25"), ipaddress.ip_network("192.0.2.70/32")),
        ignore_cidr=(ipaddress.ip_network("192.0.2.64/26"),),
    )
    assert [c.dest_ip for c in seen] == ["192.0.2.1"]


def test_ten_thousand_prefixes(kind: str) -> None:
    """10,000 ignored networks load, and the one outside them is seen."""
    many = tuple(ipaddress.ip_network((0x0A000000 + (i << 8), 24)) for i in range(10_000))
    seen, _ = made(kind, "tcp", V4, 7, ignore_cidr=many)
    assert ports(seen) == [7]


def test_loopback_is_hidden_unless_asked_for(kind: str) -> None:
    """127/8 and ::1 are hidden by default and counted."""

    def act() -> None:
        traffic.run("udpaddrs", 9, "127.0.0.1", "127.8.9.1", "::1")

    hidden = observe(kind, act)
    assert hidden == []
    assert hidden.losses.total("skipped") == 3
    shown = observe(kind, act, allow_loopback=True)
    assert [c.dest_ip for c in shown] == ["127.0.0.1", "127.8.9.1", "::1"]


def test_unspecified_destination_is_loopback(kind: str) -> None:
    """0.0.0.0 and :: mean this host, and are shown as that."""
    seen = observe(kind, lambda: traffic.run("tcpaddrs", 7, "0.0.0.0", "::"), allow_loopback=True)
    assert [c.dest_ip for c in seen] == ["127.0.0.1", "::1"]


def test_rules_count_their_hits(kind: str) -> None:
    """Each rule says how many connections it hid."""
    seen = observe(
        kind,
        lambda: traffic.run("udpports", V4, 50, 59),
        window=0,
        ignore_port=(Ports(50, 52),),
        ignore_cidr=(ipaddress.ip_network("192.0.2.0/24"),),
    )
    assert seen == []
    assert seen.losses.snapshot()["skipped", "by ignore-port:50-52"] == 3
    assert seen.losses.snapshot()["skipped", "by ignore-cidr:192.0.2.0/24"] == 7


def test_stopped_reader_loses_a_known_number(kind: str) -> None:
    """With a ring that is too small, what arrived and what is said to be lost add up."""
    seen, truth = made(kind, "udpburst", V4, 9, 1000, window=0, ring=65536)
    lost = seen.losses.total("lost")
    assert lost > 0 and len(seen) > 0
    assert len(seen) + lost == int(truth["sent"]) == 1000


def test_own_connections_are_not_reported(kind: str) -> None:
    """The tool's own process is never an event."""
    import socket

    def act() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", (V4, 9))

    assert observe(kind, act) == []


def test_hostile_and_threaded_names(kind: str) -> None:
    """A name of any bytes arrives as these bytes; a thread's own name doesn't hide the program's."""
    named, _ = made(kind, "named", r"\xff\xfe\n", "tcp", V4, 7)
    assert named[0].process is not None and named[0].process.comm == "\udcff\udcfe\n"
    threaded, truth = made(kind, "thread", "resolver", "udp", V4, 9)
    assert threaded[0].process is not None and threaded[0].process.name == "traffic"
    assert threaded[0].tid == int(truth["tid"]) != threaded[0].process.pid


def test_link_local_destination_names_its_interface(kind: str) -> None:
    """A link-local address means nothing without its interface, which the caller names beside it."""
    code = (
        "import contextlib, socket; to = ('fe80::7', 443, 0, socket.if_nametoindex('swallow'))\n"
        "tcp, udp = (socket.socket(socket.AF_INET6, kind) for kind in (1, 2)); tcp.setblocking(False)\n"
        "tcp.connect_ex(to)\n"
        "with contextlib.suppress(OSError): udp.sendto(b'', to)\n"
    )
    seen = observe(kind, lambda: subprocess.run([sys.executable, "-c", code], check=True))
    found = [(c.protocol, c.dest_ip, c.ifname) for c in seen if c.dest_ip == "fe80::7"]
    assert found == [("tcp", "fe80::7", "swallow"), ("udp", "fe80::7", "swallow")]

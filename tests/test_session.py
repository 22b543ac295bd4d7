# SPDX-License-Identifier: MIT
"""Sessions, with the hooks that every kernel has: what the kernel side filters, counts and loses, exactly."""

from __future__ import annotations

import ipaddress
import os
import random
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyegress import _native, kernel, session
from pyegress.decode.details import DetailsDecoder
from pyegress.prefixes import Network, Verdict, table
from pyegress.record import CgroupPath, Details
from pyegress.session import BATCH, KINDS, AttachError, Session, Settings, rule_out
from tests.traffic import traffic

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = "BPF_OBJECT", "CAST_OBJECT"
# An own network namespace in which these networks are here: nothing that is sent there gets out.
ISOLATED = (
    "ip link set lo up && ip route add local 198.18.0.0/15 dev lo && ip -6 route add local 2001:db8::/32 dev lo"
    ' && exec "$@"'
)
PORT = 20000 + os.getpid() % 40000
IGNORE, ONLY = Verdict(0, True, False), Verdict(0, False, True)
ONLY_PORT: dict[str, Any] = {"ports": {PORT: ONLY}, "only_ports": True, "rules": 1}


class Sent(dict[str, str]):
    """What one run of the traffic program did."""

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self["pid"])

    @property
    def sent(self) -> int:
        """Datagrams, or connects."""
        return int(self["sent"])


def send(*arguments: str | int) -> Sent:
    """Make traffic that stays in a network namespace of its own."""
    command = ["unshare", "--net", "sh", "-c", ISOLATED, "sh", str(traffic()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return Sent(word.split("=", 1) for word in done.stdout.split())


@contextmanager
def observing(**settings: Any) -> Iterator[Session]:
    """A session of cgroup hooks."""
    session = Session("cgroup", Settings(**settings))
    try:
        yield session
    finally:
        session.close()


def split(session: Session, records: memoryview) -> list[Any]:
    """Records as C structs that stay when the next ones are read."""
    size = session.ffi.sizeof("struct egress_event")
    copy = bytes(records)
    assert len(copy) % size == 0
    made = session.ffi.new("struct egress_event[]", len(copy) // size)
    session.ffi.memmove(made, copy, len(copy))
    return [session.ffi.new("struct egress_event *", event) for event in made]


def read_all(session: Session, pid: int | None = None) -> list[Any]:
    """What is in the ring, of one process or all."""
    found = []
    while (records := session.read(0)) or session.details():
        found += split(session, records)
    return [event for event in found if pid is None or event.process.identity.tgid == pid]


def destination(event: Any) -> str:
    """The destination's address as text."""
    packed = bytes(event.daddr)
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def reached(settings: dict[str, Any], addresses: list[str], port: int = PORT) -> set[str]:
    """Which of the addresses are reported when each is sent one datagram."""
    with observing(window_ns=0, **settings) as session:
        sent = send("udpaddrs", port, *addresses)
        assert sent.sent == len(addresses), sent
        found = [destination(event) for event in read_all(session, sent.pid)]
    assert len(found) == len(set(found))
    return set(found)


def test_attach() -> None:
    """All four hooks attach, and this process knows its own number."""
    with observing() as session:
        assert session.hooks == ["connect4", "connect6", "sendmsg4", "sendmsg6"]
        assert session.missing == []
        assert session.own_tgid > 0


def test_two_sessions_see_the_same() -> None:
    """Another session, or another tool's program, on the same hooks takes nothing away."""
    with observing(window_ns=0) as first, observing(window_ns=0) as second:
        sent = send("udp", "198.18.0.1", PORT, 3)
        assert [len(read_all(session, sent.pid)) for session in (first, second)] == [3, 3]


def test_detach_keeps_what_was_seen() -> None:
    """After detach nothing more is seen, and the ring can still be read."""
    with observing(window_ns=0) as session:
        before = send("udp", "198.18.0.1", PORT, 2)
        session.detach()
        after = send("udp", "198.18.0.1", PORT, 3)
        assert [event.process.identity.tgid for event in read_all(session)].count(before.pid) == 2
        assert read_all(session, after.pid) == []


def test_close_twice() -> None:
    """A closed session can be closed again."""
    session = Session("cgroup", Settings())
    session.close()
    session.close()


def test_object_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without its object says so with the path."""
    for name in OBJECTS:
        monkeypatch.setattr(_native, name, tmp_path / "absent.o")
    with pytest.raises(AttachError, match=r"^cgroup: .*/absent\.o: ENOENT$") as caught:
        Session("cgroup", Settings())
    assert caught.value.codes == {2}


def test_object_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut object is refused with libbpf's words kept for --debug."""
    damaged = tmp_path / "cut.o"
    damaged.write_bytes(_native.BPF_OBJECT.read_bytes()[:5000])
    for name in OBJECTS:
        monkeypatch.setattr(_native, name, damaged)
    with pytest.raises(AttachError, match=r"^cgroup: .*/cut\.o: ") as caught:
        Session("cgroup", Settings())
    assert "errno 4001" not in str(caught.value)  # libbpf's own number, which says nothing
    assert "libbpf" in caught.value.log


def test_no_cgroup_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cgroup hooks need a place to attach to."""
    monkeypatch.setattr(kernel, "cgroup2_root", lambda: None)
    with pytest.raises(AttachError, match=r"^cgroup: no cgroup v2 is mounted$"):
        Session("cgroup", Settings())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ruled_out_does_not_attach(kind: str) -> None:
    """For the same reason, which no kernel here may have; in guests, kinds that attach are not ruled out."""
    try:
        rule_out(kind)
    except AttachError as ruled:
        with pytest.raises(AttachError) as caught:
            Session(kind, Settings())
        assert ruled.codes == caught.value.codes


def test_kernel_without_kprobes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "has_kprobes", lambda: False)
    with pytest.raises(AttachError, match=r"^kprobe: the kernel shows no kprobes$"):
        rule_out("kprobe")
    monkeypatch.setattr(kernel, "has_kprobes", lambda: True)
    rule_out("kprobe")


def test_functions_that_nobody_knows_rule_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then trying says what is wrong."""
    monkeypatch.setattr(session, "_TRACED", b"no_such_function")
    rule_out("fentry")


@pytest.mark.parametrize("kind", KINDS)
def test_failed_session_leaves_no_descriptor(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a session had opened when it failed is closed."""

    def fail(*_: object) -> None:
        raise AttachError(kind, "made up", set(), "")

    monkeypatch.setattr(Session, "_attach", fail)
    for _ in range(2):  # the first time also opens what the process keeps
        before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
        with pytest.raises(AttachError):
            Session(kind, Settings())
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_counters_have_the_names_of_the_header() -> None:
    """Each counter of egress.h is there by its name, and starts at 0."""
    header = (ROOT / "bpf/egress.h").read_text()
    listed = re.findall(
        r"^\tEGRESS_(\w+),", header.split("enum egress_counter {")[1].split("}")[0], re.MULTILINE
    )
    assert listed.pop() == "COUNTERS"
    with observing(only_ports=True) as session:
        counters = session.counters()
    assert set(counters) == {name.lower() for name in listed}
    assert counters["reported"] == 0


def test_own_process_is_not_reported() -> None:
    """What the observer itself sends is counted as its own, what its child sends is reported."""
    with observing(window_ns=0, report_loopback=True) as session:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as own:
                own.setblocking(False)
                own.connect_ex(("127.0.0.1", PORT))
        child = send("udp", "127.0.0.1", PORT)
        assert session.counters()["skipped_own"] == 2
        assert {event.process.identity.tgid for event in read_all(session)} & {child.pid, os.getpid()} == {
            child.pid
        }


@pytest.mark.parametrize(
    ("arguments", "family", "protocol", "address"),
    [
        (("tcp", "198.18.0.1"), 4, 6, "198.18.0.1"),
        (("nonblock", "2001:db8::1"), 6, 6, "2001:db8::1"),
        (("mappedtcp", "198.18.0.1"), 4, 6, "198.18.0.1"),
        (("udp", "198.18.0.1"), 4, 17, "198.18.0.1"),
        (("udp", "2001:db8::1"), 6, 17, "2001:db8::1"),
        (("udpconn", "198.18.0.1"), 4, 17, "198.18.0.1"),
        (("udpconnonly", "2001:db8::1"), 6, 17, "2001:db8::1"),
        (("mapped", "198.18.0.1"), 4, 17, "198.18.0.1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_each_way_to_ask_for_a_destination(
    arguments: tuple[str, str], family: int, protocol: int, address: str
) -> None:
    """A request is one record with destination and process, a mapped address being IPv4."""
    with observing(window_ns=0) as session:
        sent = send(*arguments, PORT)
        (event,) = read_all(session, sent.pid)
    assert (event.family, event.protocol, destination(event), event.dport) == (
        family,
        protocol,
        address,
        PORT,
    )
    of_flow = _native.lib.EGRESS_OF_FLOW if protocol == 17 else 0
    assert (event.count, event.tid, event.flags) == (1, int(sent["tid"]), of_flow)
    assert session.ffi.string(event.process.comm) == b"traffic"


def test_port_0_is_no_event() -> None:
    """Nothing can be sent to port 0, so asking for it is nothing to audit."""
    with observing(window_ns=0) as session:
        sent = send("tcp", "198.18.0.1", 0)
        assert read_all(session, sent.pid) == []


@pytest.mark.parametrize(
    ("settings", "command", "counter"),
    [
        ({"wants": ("udp",)}, "tcp", "skipped_protocol"),
        ({"wants": ("tcp",)}, "udp", "skipped_protocol"),
        ({"wants": ("udplite", "other")}, "udp", "skipped_protocol"),
        ({"wants": ("udp", "icmp")}, "udp", None),
        ({"wants": ("tcp",)}, "tcp", None),
        ({"wants": ("udplite",)}, "udplite", None),
        ({"wants": ("udp",)}, "udplite", "skipped_protocol"),
    ],
)
def test_protocol(settings: dict[str, Any], command: str, counter: str | None) -> None:
    """A protocol that is not wanted is counted, and the other is reported."""
    with observing(window_ns=0, **settings) as session:
        before = session.counters()
        sent = send(command, "198.18.0.1", PORT)
        assert bool(read_all(session, sent.pid)) is (counter is None)
        assert counter is None or session.counters()[counter] > before[counter]


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.255.255", True),
        ("0.0.0.0", True),
        ("198.18.0.1", False),
        ("::1", True),
        ("::", True),
        ("2001:db8::1", False),
    ],
)
def test_loopback(address: str, is_loopback: bool) -> None:
    """127.0.0.0/8, ::1 and no address at all are this host, and hidden unless asked for."""
    with observing(window_ns=0) as hiding, observing(window_ns=0, report_loopback=True) as showing:
        sent = send("tcp", address, PORT)
        assert len(read_all(showing, sent.pid)) == 1
        assert len(read_all(hiding, sent.pid)) == (not is_loopback)


@pytest.mark.parametrize(("ignored", "mirrored"), [(53, 13568), (443, 47873), (1, 256), (65535, 65535)])
def test_ignored_port(ignored: int, mirrored: int) -> None:
    """A port is hidden, and not the one with its two bytes swapped."""
    with observing(window_ns=0, ports={ignored: IGNORE}, rules=1) as session:
        senders = {port: send("udp", "198.18.0.1", port) for port in {ignored, mirrored}}
        found = read_all(session)
        shown = {
            port for port, sent in senders.items() if any(e.process.identity.tgid == sent.pid for e in found)
        }
        assert shown == {mirrored} - {ignored}


@pytest.mark.parametrize(
    ("settings", "first", "last", "shown"),
    [
        ({"ports": dict.fromkeys(range(100, 201), IGNORE)}, 98, 202, {98, 99, 201, 202}),
        (
            {"ports": dict.fromkeys(range(100, 201), ONLY), "only_ports": True},
            98,
            202,
            set(range(100, 201)),
        ),
        ({"ports": {53: ONLY}, "only_ports": True}, 52, 54, {53}),
        ({"ports": {53: Verdict(0, True, True), 54: ONLY}, "only_ports": True}, 52, 55, {54}),
        ({"ports": {}, "only_ports": True}, 52, 54, set()),
        (
            {"ports": dict.fromkeys(range(1, 65536), ONLY), "only_ports": True},
            65530,
            65535,
            set(range(65530, 65536)),
        ),
        ({"ports": dict.fromkeys(range(1, 65536), IGNORE)}, 1, 300, set()),
    ],
    ids=[
        "ignored range",
        "wanted range",
        "wanted",
        "ignored and wanted",
        "none wanted",
        "all wanted",
        "all ignored",
    ],
)
def test_ports(settings: dict[str, Any], first: int, last: int, shown: set[int]) -> None:
    """Exactly the ports that pass are reported, at the edges of a range and inside it."""
    with observing(window_ns=0, rules=1, **settings) as session:
        sent = send("udpports", "198.18.0.1", first, last)
        assert sent.sent == last - first + 1
        assert sorted(event.dport for event in read_all(session, sent.pid)) == sorted(shown)


def cidrs(ignore: list[str], only: list[str]) -> dict[str, Any]:
    """Settings for prefixes."""
    numbered: list[tuple[int, Network]] = [
        (number, ipaddress.ip_network(prefix)) for number, prefix in enumerate([*ignore, *only])
    ]
    found = table(numbered[: len(ignore)], numbered[len(ignore) :])
    return {"cidrs": found, "only_cidrs": bool(only), "rules": len(numbered)}


EDGES = ["198.18.9.255", "198.18.10.0", "198.18.10.77", "198.18.10.255", "198.18.11.0"]
EDGES6 = [
    "2001:db8:0:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:1::",
    "2001:db8:1:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:2::",
]


@pytest.mark.parametrize(
    ("ignore", "only", "hidden"),
    [
        (["198.18.10.0/24"], [], set(EDGES[1:4])),
        ([], ["198.18.10.0/24"], {EDGES[0], EDGES[4], *EDGES6}),
        (["198.18.10.77/32"], ["198.18.10.0/24"], {EDGES[0], EDGES[2], EDGES[4], *EDGES6}),
        (["198.18.10.0/24"], ["198.18.10.77/32"], {*EDGES, *EDGES6}),
        (["198.18.10.0/24", "198.18.10.77/32"], [], set(EDGES[1:4])),
        (["2001:db8:1::/48"], [], set(EDGES6[1:3])),
        ([], ["2001:db8:1::/48"], {EDGES6[0], EDGES6[3], *EDGES}),
        (["2001:db8:1::/128"], [], {EDGES6[1]}),
        (["0.0.0.0/0"], [], set(EDGES)),
        (["::/0"], [], set(EDGES6)),
        ([], ["0.0.0.0/0"], set(EDGES6)),
        ([], ["0.0.0.0/0", "::/0"], set()),
        (["0.0.0.0/0", "::/0"], ["198.18.10.77/32"], {*EDGES, *EDGES6}),
    ],
)
def test_cidrs(ignore: list[str], only: list[str], hidden: set[str]) -> None:
    """The first and last address of a prefix and those just outside, in both families."""
    assert reached(cidrs(ignore, only), EDGES + EDGES6) == {*EDGES, *EDGES6} - hidden


def test_many_random_cidrs() -> None:
    """The kernel's trie of 10,000 prefixes hides what any ignored one holds, or no wanted one does."""
    random_ = random.Random(5)

    def prefixes(count: int) -> list[str]:
        found = []
        for _ in range(count):
            if random_.random() < 0.5:
                base, bits, length = 198 << 24 | 18 << 16, 32, random_.choice((22, 24, 27, 31, 32))
                address = base | random_.getrandbits(17)
            else:
                base, bits, length = 0x20010DB8 << 96, 128, random_.choice((44, 48, 64, 124, 128))
                address = base | random_.getrandbits(16) << 80 | random_.getrandbits(8)
            found.append(str(ipaddress.ip_network((address, min(length, bits)), strict=False)))
        return found

    ignore, only = prefixes(2000), prefixes(8000)
    hidden_by = [ipaddress.ip_network(prefix) for prefix in ignore]
    wanted_by = [ipaddress.ip_network(prefix) for prefix in only]
    tried = {str(network.network_address) for network in random_.sample(hidden_by + wanted_by, 60)}
    tried |= {str(ipaddress.ip_address(198 << 24 | 18 << 16 | random_.getrandbits(17))) for _ in range(40)}
    tried |= {str(ipaddress.ip_address(0x20010DB8 << 96 | random_.getrandbits(96))) for _ in range(10)}
    expected = {
        text
        for text in tried
        if not any(ipaddress.ip_address(text) in network for network in hidden_by)
        and any(ipaddress.ip_address(text) in network for network in wanted_by)
    }
    assert 10 < len(expected) < len(tried) - 10
    assert reached(cidrs(ignore, only), sorted(tried)) == expected


def test_rules_count_their_hits() -> None:
    """Each rule counts what it decided, and nothing else is counted for it."""
    settings = cidrs(["198.18.10.0/24", "198.18.11.0/24", "2001:db8:1::/48"], [])
    ports = {PORT: Verdict(3, False, True), PORT + 1: Verdict(4, True, False)}
    settings["rules"] = 5
    with observing(window_ns=0, ports=ports, only_ports=True, **settings) as session:
        send("udpaddrs", PORT, *EDGES, *EDGES6)
        send("udp", "198.18.0.1", PORT + 1, 7)
        assert session.rule_hits(5) == [3, 1, 2, len(EDGES + EDGES6), 7]
        assert session.rule_hits(0) == []
        assert session.counters()["skipped_cidr"] == 6


def test_ring_that_is_full_loses_a_counted_number() -> None:
    """With nobody reading, what does not fit is counted: read and lost make what was sent."""
    with observing(window_ns=0, ring_bytes=65536, **ONLY_PORT) as session:
        sent = send("udp", "198.18.0.1", PORT, 1000)
        read = len(read_all(session, sent.pid))
        counters = session.counters()
    assert 0 < read < 65536 // 152  # a record and the ring's own 8 bytes
    assert (counters["reported"], counters["lost_ring"]) == (read, sent.sent - read)


def test_full_ring_loses_first_datagrams_and_no_repeats() -> None:
    """With a window a flow whose first record has no room is lost with it, and reported when there is room."""
    with observing(ring_bytes=65536, **ONLY_PORT) as session:
        addresses = [f"198.18.{number // 256}.{number % 256}" for number in range(256, 1256)]
        sent = send("udpaddrs", PORT, *addresses)
        first = read_all(session, sent.pid)
        lost = session.counters()["lost_first"]
        assert 0 < len(first) == sent.sent - lost < sent.sent
        again = send("udpaddrs", PORT, *addresses[:5])
        assert {destination(event) for event in read_all(session, again.pid)} == set(addresses[:5])


def test_ring_that_was_emptied_has_room_again() -> None:
    """Reading is what makes room, and batches may be read as they come."""
    with observing(window_ns=0, ring_bytes=65536, **ONLY_PORT) as session:
        total = 0
        for _ in range(20):
            sent = send("udp", "198.18.0.1", PORT, 10)
            total += len(read_all(session, sent.pid))
        assert total == 200
        assert session.counters()["lost_ring"] == 0


def test_repeats_of_a_flow_are_counted() -> None:
    """In a window a flow is reported at its first datagram; taking the flows reports the others."""
    with observing(**ONLY_PORT) as session:
        sent = send("udp", "198.18.0.1", PORT, 7)
        assert [event.count for event in read_all(session, sent.pid)] == [1]
        (rest,) = split(session, session.take_flows(True))
        assert (rest.count, rest.process.identity.tgid, destination(rest)) == (6, sent.pid, "198.18.0.1")
        assert session.counted() == session.counters()["datagrams"] == 7
        assert not session.take_flows(True)


def test_flow_without_repeats_is_not_reported_again() -> None:
    """A flow that was reported whole leaves the table without a record."""
    with observing(**ONLY_PORT) as session:
        send("udp", "198.18.0.1", PORT)
        assert not session.take_flows(True)
        assert session.counted() == 0
        assert len(read_all(session)) == session.counted() == 1


def test_flows_differ_by_destination_port_and_process() -> None:
    """The same process to another address or port, or another process, is another flow."""
    ports = {"ports": dict.fromkeys((PORT, PORT + 1), ONLY), "only_ports": True, "rules": 1}
    with observing(**ports) as session:
        send("udpaddrs", PORT, "198.18.0.1", "198.18.0.2", "198.18.0.1")
        send("udpports", "198.18.0.1", PORT, PORT + 1)
        send("udp", "198.18.0.1", PORT)
        found = read_all(session)
        assert [event.count for event in found] == [1] * 5
        assert [event.count for event in split(session, session.take_flows(True))] == [1]


def test_flows_in_use_stay() -> None:
    """Only flows without a datagram since they were looked at are taken, with the time of their last one."""
    with observing(**ONLY_PORT) as session:
        send("udp", "198.18.0.1", PORT, 3)
        (first,) = read_all(session)
        began_ns = first.ts_ns
        assert not session.take_flows(False)
        (rest,) = split(session, session.take_flows(False))
        assert rest.count == 2
        assert rest.ts_ns >= began_ns


@pytest.mark.parametrize("flows", [1, 16, 100])
def test_small_flow_table_never_hides_a_destination(flows: int) -> None:
    """A table that is too small reports flows again, and forgets only repeats."""
    addresses = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    with observing(flows=flows, **ONLY_PORT) as session:
        sent = send("udpaddrs", PORT, *addresses, *addresses, *addresses[:10] * 20)
        found = read_all(session, sent.pid)
        while taken := split(session, session.take_flows(True)):
            found += taken
        counts: Counter[str] = Counter()
        for event in found:
            counts[destination(event)] += event.count
        assert set(counts) == set(addresses)
        assert session.counters()["datagrams"] == sent.sent
        assert session.counted() == counts.total() <= sent.sent


def test_large_flow_table_counts_every_datagram() -> None:
    """Where nothing is evicted, records stand for exactly what was sent, to each destination."""
    addresses = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    with observing(**ONLY_PORT) as session:
        sent = send("udpaddrs", PORT, *addresses, *addresses, *addresses[:10] * 20)
        counts: Counter[str] = Counter()
        for event in read_all(session, sent.pid) + split(session, session.take_flows(True)):
            counts[destination(event)] += event.count
        assert counts == Counter(addresses * 2 + addresses[:10] * 20)


def test_more_flows_than_a_batch_are_taken_in_several() -> None:
    """A full batch is not all: the next call goes on, and nothing is taken twice."""
    ports = {"ports": dict.fromkeys(range(10000, 15000), ONLY), "only_ports": True, "rules": 1}
    with observing(flows=1 << 16, **ports) as session:
        sent = send("udpburst", "198.18.0.1", 10000, 15000, 5000)
        assert len(read_all(session, sent.pid)) == 5000
        batches = []
        while taken := split(session, session.take_flows(True)):
            assert {event.count for event in taken} == {2}
            batches.append(len(taken))
        assert batches == [BATCH] * 4 + [904]
        assert session.counted() == session.counters()["datagrams"] == sent.sent == 15000


def test_synthesize() -> None:
    """Records can be made without traffic; they are this process' own."""
    with observing(synthesize=True, **ONLY_PORT) as session:
        session.synthesize(1024)
        found = read_all(session)
        assert [destination(event) for event in found] == [
            f"192.0.2.{number % 256}" for number in range(1024)
        ]
        assert {(event.process.identity.tgid, event.dport, event.protocol) for event in found} == {
            (session.own_tgid, 443, 6)
        }
        assert session.counters()["reported"] == 1024


def test_synthesize_is_not_loaded_unless_asked_for() -> None:
    """A session that audits has no program that makes records up."""
    with observing() as session, pytest.raises(AttachError, match=r"^cgroup: run: E"):
        session.synthesize(1)


def test_synthesized_records_that_do_not_fit_are_counted() -> None:
    """A full ring is counted to the record."""
    with observing(synthesize=True, ring_bytes=65536, **ONLY_PORT) as session:
        session.synthesize(1000)
        read = len(read_all(session))
        assert read > 0
        assert session.counters()["lost_ring"] == 1000 - read


def test_read_gives_whole_batches_of_bounded_size() -> None:
    """What is more than a batch stays for the next call."""
    with observing(synthesize=True, **ONLY_PORT) as session:
        for _ in range(5):
            session.synthesize(1000)
        sizes = []
        while records := session.read(0):
            sizes.append(len(split(session, records)))
        assert sizes == [BATCH] * 4 + [904]


def test_read_times_out_empty() -> None:
    """Nothing seen is nothing read."""
    with observing(only_ports=True) as session:
        assert len(session.read(1)) == 0


def test_read_waits_for_an_event() -> None:
    """A read without a limit ends when there is something."""
    with observing(window_ns=0, **ONLY_PORT) as session:
        command = [
            "unshare",
            "--net",
            "sh",
            "-c",
            ISOLATED,
            "sh",
            str(traffic()),
            "udp",
            "198.18.0.1",
            str(PORT),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sender:
            (event,) = split(session, session.read(-1))
        assert event.process.identity.tgid == sender.pid


def test_signal_ends_a_read() -> None:
    """A signal is no error, and whoever reads can look around."""
    came = []
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(True))
    try:
        with observing(only_ports=True) as session:
            # Again and again, as the first might come before the wait.
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            assert len(session.read(-1)) == 0
            assert came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ring_size_is_rounded_up() -> None:
    """Any size works, and holds at least as much as it says."""
    with observing(synthesize=True, ring_bytes=100_000, **ONLY_PORT) as session:
        for _ in range(2):
            session.synthesize(500)
        assert 100_000 // 152 < len(read_all(session)) < (1 << 17) // 152


def details(session: Session) -> list[Details | CgroupPath]:
    """What the last read was told of programs and cgroups."""
    return list(DetailsDecoder(session.ffi).decode(session.details()))


def send_again(session: Session) -> tuple[int, list[Details], list[CgroupPath]]:
    """A new flow of this process: how many of its events came, and what was told with them."""
    session.synthesize(1)
    events = split(session, session.read(0))
    told = details(session)
    return (
        len([event for event in events if event.process.identity.tgid == os.getpid()]),
        [each for each in told if isinstance(each, Details) and each.seen.identity.tgid == os.getpid()],
        [each for each in told if isinstance(each, CgroupPath)],
    )


def test_details_come_once() -> None:
    """With the first event of a program; its cgroup's path too, and ancestors in front of it."""
    with observing(synthesize=True, **ONLY_PORT) as session:
        count, (own,), cgroups = send_again(session)
        assert count == 1 and own.parent is not None
        assert own.seen.cgroup_id in {each.cgroup_id for each in cgroups}
        assert own.args is not None and b"pytest" in own.args
        assert send_again(session) == (1, [], [])


def test_what_is_forgotten_is_told_again() -> None:
    """The reader may forget, and says so."""
    with observing(synthesize=True, **ONLY_PORT) as session:
        _, (own,), _ = send_again(session)
        session.forget_program(own.seen.identity)
        _, again, cgroups = send_again(session)
        assert (again, cgroups) == ([own], [])
        session.forget_program(own.seen.identity)
        session.forget_cgroup(own.seen.cgroup_id)
        _, again, cgroups = send_again(session)
        assert again == [own] and [each.cgroup_id for each in cgroups] == [own.seen.cgroup_id]
        session.forget_cgroup(1 << 60)  # unknown to it


def test_program_that_changes_its_name_is_told_again() -> None:
    """A name may change at any time: the reader is told before the next event."""
    with observing(synthesize=True, **ONLY_PORT) as session:
        _, (before,), _ = send_again(session)
        name = Path("/proc/self/comm")
        old = name.read_text()
        try:
            name.write_text("renamed")
            _, (after,), _ = send_again(session)
        finally:
            name.write_text(old)
        assert after == before._replace(seen=before.seen._replace(comm="renamed"))


THIRD: dict[str, Any] = {"ports": {PORT: Verdict(2, False, True)}, "only_ports": True, "rules": 3}
"""The port rule, so that the process rules are 0 and 1."""


def test_hidden_program() -> None:
    """The kernel drops what it does as long as it is as it was judged."""
    with observing(window_ns=0, hide_programs=True, report_loopback=True, **THIRD) as session:
        command = [str(traffic()), "hold", "127.0.0.1", str(PORT)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
            assert sender.stdin is not None and sender.stdout is not None
            sender.stdout.readline()
            assert len(split(session, session.read(0))) == 1
            (told,) = [each for each in details(session) if isinstance(each, Details) and each.args]
            session.hide_program(told.seen, 0)
            sender.stdin.write(b"\n")
            sender.stdin.flush()
            sender.stdout.readline()
            assert read_all(session) == []
            assert session.counters()["skipped_process"] == 1
            assert session.rule_hits(3) == [1, 0, 2]
            session.hide_program(told.seen._replace(uid=1), 0)
            sender.stdin.close()
            sender.wait()


def test_hidden_cgroup() -> None:
    """The kernel drops what all in it do."""
    with observing(window_ns=0, hide_cgroups=True, **THIRD) as session:
        send("udp", "198.18.0.1", PORT)
        session.read(0)
        (told,) = [each for each in details(session) if isinstance(each, Details) and each.args]
        session.hide_cgroup(told.seen.cgroup_id, 1)
        send("udp", "198.18.0.1", PORT)
        assert read_all(session) == []
        assert session.rule_hits(3) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["comms", "uids"])
def test_process_tables(kind: str) -> None:
    """Names and users are decided from the first event: hidden by a rule, or outside of those wanted."""
    own, other = (b"traffic".ljust(16, b"\0"), b"other".ljust(16, b"\0")) if kind == "comms" else (0, 1)
    outside = "outside_comm" if kind == "comms" else "outside_uid"
    for rules, only, hits in (
        ({own: Verdict(0, True, False)}, None, [1, 0]),
        ({other: Verdict(0, True, False)}, None, [0, 0]),
        ({own: Verdict(0, False, True)}, 1, [1, 0]),
        ({other: Verdict(0, False, True)}, 1, [0, 1]),
    ):
        settings: dict[str, Any] = {kind: rules, outside: only} | THIRD
        with observing(window_ns=0, **settings) as session:
            sent = send("udp", "198.18.0.1", PORT)
            hidden = hits == [0, 1] or (only is None and hits == [1, 0])
            assert len(read_all(session, sent.pid)) == (not hidden)
            assert session.rule_hits(3) == [*hits, 1]

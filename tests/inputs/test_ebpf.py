# SPDX-License-Identifier: MIT
"""The ebpf input: traffic to connections, options to filters, and counters that add up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from pyegress import kernel
from pyegress.errors import InputError, UnsupportedError, UsageError
from pyegress.inputs import ebpf
from pyegress.inputs.ebpf import Ebpf, EbpfOptions
from pyegress.losses import Losses
from pyegress.options import parse
from pyegress.plugin import Context
from pyegress.record import Connection
from pyegress.session import AttachError, Session, Settings
from tests.kernel.observing import child, observe
from tests.names.resolving import SERVER, needs_resolver, resolving
from tests.traffic import short, traffic

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30
# An own network namespace in which these networks are here: nothing that is sent there gets out.
ISOLATED = (
    "ip link set lo up && ip route add local 198.18.0.0/15 dev lo && ip -6 route add local 2001:db8::/32 dev lo"
    ' && exec "$@"'
)
PORT = 20000 + os.getpid() % 40000
CGROUP = ("attach", "cgroup")
ONLY_PORT = ("only-port", str(PORT))
EACH = ("window", "0")


def options(*given: tuple[str, str]) -> EbpfOptions:
    """Options as the command line makes them."""
    return parse("-I", "ebpf", EbpfOptions, given)


def send(*arguments: str | int) -> dict[str, str]:
    """Make traffic that stays in a network namespace of its own."""
    command = ["unshare", "--net", "sh", "-c", ISOLATED, "sh", str(traffic()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(word.split("=", 1) for word in done.stdout.split())


class Audit:
    """An input that is open, and what it says."""

    def __init__(self, *given: tuple[str, str]) -> None:
        self.losses = Losses()
        self.notices: list[str] = []
        self.said: list[str] = []
        self.input = Ebpf(options(*given))
        self.context = Context(losses=self.losses, notice=self.notices.append, debug=self.said.append)

    def open(self) -> Audit:
        """Start observing."""
        self.input.open(self.context)
        return self

    def drain(self, pid: str | None = None) -> list[Connection]:
        """Stop, and give all that was observed, or that of one process."""
        self.input.stop()
        found = [connection for batch in self.input.read() for connection in batch]
        return [c for c in found if pid is None or (c.process and c.process.pid == int(pid))]


@pytest.fixture
def audit() -> Iterator[Callable[..., Audit]]:
    """Opens inputs of cgroup hooks and closes them."""
    opened: list[Audit] = []

    def make(*given: tuple[str, str]) -> Audit:
        opened.append(Audit(CGROUP, *given))
        return opened[-1].open()

    yield make
    for each in opened:
        each.input.close()


Audits = Callable[..., Audit]


@needs_root
def test_fields_of_a_connection(audit: Audits) -> None:
    """A datagram of another process comes with its destination, time and process."""
    observing = audit(EACH)
    before_ns = time.time_ns()
    sent = send("named", "a\\xffb", "udp", "198.18.0.1", PORT)
    after_ns = time.time_ns()
    (connection,) = observing.drain(sent["pid"])
    slack_ns = 1_000_000_000  # the clock may be set meanwhile
    assert before_ns - slack_ns < connection.ts < after_ns + slack_ns
    assert (connection.hook, connection.protocol, connection.ip_version) == ("ebpf", "udp", 4)
    assert (connection.dest_ip, connection.dest_port, connection.count) == ("198.18.0.1", PORT, 1)
    assert (connection.src_ip, connection.src_port, connection.result) == (None, int(sent["sports"]), None)
    assert (connection.socket_uid, connection.kernel_socket) == (0, False)
    assert (connection.tid, connection.attribution, connection.direction) == (
        int(sent["tid"]),
        "kernel",
        "out",
    )
    assert connection.netns not in (None, Path("/proc/self/ns/net").stat().st_ino)
    process = connection.process
    assert process
    assert (process.name, process.user, process.kernel) == ("a\udcffb", "root", False)
    assert process.parent
    assert process.parent.pid == os.getpid()


@needs_root
def test_owner_of_a_socket_is_who_made_it() -> None:
    """A process that drops its rights goes on with root's socket, and makes another as who it is then."""
    code = (
        "import os, socket\n"
        "sockets = [socket.socket(type=socket.SOCK_DGRAM)]\n"
        "os.setuid(65534)\n"
        "sockets.append(socket.socket(type=socket.SOCK_DGRAM))\n"
        f"for one in sockets: one.sendto(b'', ('127.0.0.1', {PORT}))\n"
    )
    seen = child("cgroup", sys.executable, "-c", code, window=0, allow_loopback=True)
    assert [(c.process.uid, c.socket_uid) for c in seen if c.process] == [(65534, 0), (65534, 65534)]


@needs_root
@pytest.mark.parametrize("address", ["198.18.0.1", "2001:db8::1"])
def test_tcp_connect(audit: Audits, address: str) -> None:
    """A connect is reported as it was asked for; its result is not known to these hooks."""
    observing = audit()
    sent = send("tcp", address, PORT, 3)
    found = observing.drain(sent["pid"])
    assert [(c.protocol, c.dest_ip, c.dest_port, c.count, c.result) for c in found] == [
        ("tcp", address, PORT, 1, None)
    ] * 3


@needs_root
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_every_program_of_a_storm_is_known_whole(audit: Audits, protocol: str) -> None:
    """Five hundred programs that make one call and end: none unknown, none in part, none as another one."""
    observing = audit(ONLY_PORT)
    sent = send("storm", str(short()), protocol, "198.18.0.1", PORT, 500, 0)
    found = observing.drain()
    programs = [
        c.process
        for c in found
        if c.process and c.process.parent and c.process.parent.pid == int(sent["pid"])
    ]
    told = {p.pid: (p.name, p.exe, p.cmdline, p.user, p.attribution) for p in programs}
    line = f"{short()} {protocol} 198.18.0.1 {PORT} n="
    assert told == {
        int(pid): ("short", str(short()), f"{line}{number}", "root", "kernel")
        for number, pid in enumerate(sent["pids"].split(","))
    }
    grandparents = {p.parent.parent for p in programs if p.parent}
    assert [p.pid for p in grandparents if p] == [os.getpid()]
    assert observing.losses.total("lost") == observing.losses.total("unattributed") == 0


@needs_root
def test_process_that_runs_has_its_command_line(audit: Audits) -> None:
    """While a process runs its command line, program and ancestors are read."""
    observing = audit(("allow-loopback", "true"), ONLY_PORT)
    code = (
        "import socket\n"
        f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {PORT}))\n"
        "print(flush=True)\ninput()"
    )
    command = [sys.executable, "-c", code, "argument"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        (connection,) = observing.drain()
        child.communicate("\n")
    process = connection.process
    assert process
    assert (process.pid, process.cmdline) == (child.pid, " ".join(command))
    assert process.parent
    assert process.parent.cmdline is not None
    assert observing.losses.total("unattributed") == 0


@needs_root
def test_each_datagram(audit: Audits) -> None:
    """A window of 0 makes a record of each datagram."""
    observing = audit(EACH)
    sent = send("udp", "198.18.0.1", PORT, 25)
    assert [c.count for c in observing.drain(sent["pid"])] == [1] * 25


@needs_root
def test_window_counts_each_datagram(audit: Audits) -> None:
    """With a window the records of a flow stand for all its datagrams, the last come at the end."""
    observing = audit()
    sent = send("udp", "198.18.0.1", PORT, 25)
    assert [c.count for c in observing.drain(sent["pid"])] == [1, 24]


@needs_root
def test_short_window_while_reading(audit: Audits) -> None:
    """However windows fall into the traffic, the counts add up to what was sent."""
    observing = audit(("window", "1ms"), ONLY_PORT)
    found: list[Connection] = []
    reader = Thread(target=lambda: found.extend(c for batch in observing.input.read() for c in batch))
    reader.start()
    sent = send("udpburst", "198.18.0.1", PORT, 20000)
    observing.input.stop()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert sum(connection.count for connection in found) == int(sent["sent"]) == 20000
    assert len(found) > 2
    assert observing.losses.total("lost") == 0


@needs_root
def test_reader_sees_events_as_they_come_and_ends_at_stop(audit: Audits) -> None:
    """An event is given to a waiting reader, and stop, from another thread, ends it."""
    observing = audit(EACH, ONLY_PORT)
    came = Event()
    found: list[Connection] = []

    def read() -> None:
        for batch in observing.input.read():
            found.extend(batch)
            if found:
                came.set()

    reader = Thread(target=read)
    reader.start()
    send("udp", "198.18.0.1", PORT)
    assert came.wait(PATIENCE_S)
    assert reader.is_alive()
    observing.input.stop()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert len(found) == 1


@needs_root
def test_stop_drains(audit: Audits) -> None:
    """More than one batch is waiting when it is told to stop: all of it is given."""
    observing = audit(EACH, ONLY_PORT)
    send("udpburst", "198.18.0.1", PORT, 6000)
    assert len(observing.drain()) == 6000
    assert observing.losses.total("lost") == 0


@needs_root
def test_full_ring_is_counted(audit: Audits) -> None:
    """What the ring had no room for is said, with what to do: given and lost make what was sent."""
    observing = audit(EACH, ONLY_PORT, ("ring", "65536"))
    send("udp", "198.18.0.1", PORT, 1000)
    given = len(observing.drain())
    lost = observing.losses.snapshot()["lost", "ebpf: ring buffer full (make it larger with -I ebpf:ring)"]
    assert 0 < given == 1000 - lost


@needs_root
@pytest.mark.parametrize("flows", ["1", "64", "32768"])
def test_pushed_out_flows_are_counted(audit: Audits, flows: str) -> None:
    """Counts of records and what went with evicted flows make what was sent; no destination is missing."""
    observing = audit(ONLY_PORT, ("flows", flows))
    addresses = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    sent = send("udpaddrs", PORT, *addresses, *addresses, *addresses[:10] * 20)
    counts: Counter[str] = Counter()
    for connection in observing.drain():
        counts[connection.dest_ip] += connection.count
    reason = "ebpf: repeats of flows pushed out of the table (-I ebpf:flows)"
    evicted = observing.losses.snapshot().get(("lost", reason), 0)
    assert set(counts) == set(addresses)
    assert counts.total() + evicted == int(sent["sent"])
    assert flows != "32768" or evicted == 0


@needs_root
def test_first_datagrams_that_were_lost_are_not_lost_twice(audit: Audits) -> None:
    """A full ring with a window: given, lost in the ring and evicted make what was sent."""
    observing = audit(ONLY_PORT, ("ring", "65536"))
    addresses = [f"198.18.1.{number}" for number in range(200)]
    sent = send("udpaddrs", PORT, *addresses, *addresses)
    given = sum(connection.count for connection in observing.drain())
    assert 0 < given == int(sent["sent"]) - observing.losses.total("lost")


@needs_root
def test_refresh_while_reading_claims_no_loss(audit: Audits) -> None:
    """Repeats that wait in the table are not lost, so nothing is said of them before the end."""
    observing = audit(ONLY_PORT)
    send("udp", "198.18.0.1", PORT, 5)
    observing.input.refresh_losses()
    assert observing.losses.total("lost") == 0


@needs_root
@pytest.mark.parametrize(
    ("given", "arguments", "shown", "counted"),
    [
        ([("ignore-port", "53")], ("udpports", "198.18.0.1", 52, 54), [52, 54], {"by ignore-port:53": 1}),
        (
            [("ignore-port", "53-54"), ("ignore-port", "54-55")],
            ("udpports", "198.18.0.1", 52, 56),
            [52, 56],
            {"by ignore-port:53-54": 2, "by ignore-port:54-55": 1},
        ),
        (
            [("only-port", "100-200"), ("ignore-port", "150")],
            ("udpports", "198.18.0.1", 148, 152),
            [148, 149, 151, 152],
            {"by ignore-port:150": 1},
        ),
    ],
    ids=["one", "ranges that overlap", "hole in a wanted range"],
)
def test_port_rules(
    audit: Audits,
    given: list[tuple[str, str]],
    arguments: tuple[str | int, ...],
    shown: list[int],
    counted: dict[str, int],
) -> None:
    """Ports that pass are reported; each rule has its hits by its own name."""
    # A destination of our own, so that no other program's traffic is counted.
    observing = audit(EACH, ("only-cidr", "198.18.0.0/15"), *given)
    sent = send(*arguments)
    assert [connection.dest_port for connection in observing.drain(sent["pid"])] == shown
    skipped = {reason: n for (stage, reason), n in observing.losses.snapshot().items() if stage == "skipped"}
    assert {reason: skipped.get(reason) for reason in counted} == counted


@needs_root
def test_only_port_counts_what_it_lets_through(audit: Audits) -> None:
    """Hits of a wanting rule are matches, and what is outside of it is skipped."""
    observing = audit(EACH, ONLY_PORT)
    sent = send("udpports", "198.18.0.1", PORT - 1, PORT + 1)
    assert [connection.dest_port for connection in observing.drain(sent["pid"])] == [PORT]
    losses = observing.losses.snapshot()
    assert losses["matched", f"by only-port:{PORT}"] == 1
    assert losses["skipped", "outside only-port"] >= 2


@needs_root
def test_cidr_rules(audit: Audits) -> None:
    """Networks hide and show as configured, each by its own name, after the ports."""
    rules = [
        ("ignore-cidr", "198.18.1.0/24"),
        ("ignore-cidr", "2001:db8:1::/48"),
        ("only-cidr", "198.18.0.0/16"),
        ("only-cidr", "2001:db8::/32"),
        ("only-cidr", "198.18.1.7"),
    ]
    observing = audit(EACH, ONLY_PORT, *rules)
    shown = ["198.18.0.255", "198.18.2.0", "2001:db8:2::"]
    hidden = ["198.18.1.0", "198.18.1.7", "198.18.1.255", "198.19.0.0", "2001:db8:1::1"]
    sent = send("udpaddrs", PORT, *shown, *hidden)
    assert [connection.dest_ip for connection in observing.drain(sent["pid"])] == shown
    assert {key: n for key, n in observing.losses.snapshot().items() if "cidr" in key[1]} == {
        ("matched", "by only-cidr:198.18.0.0/16"): 2,
        ("matched", "by only-cidr:2001:db8::/32"): 1,
        ("skipped", "by ignore-cidr:198.18.1.0/24"): 3,
        ("skipped", "by ignore-cidr:2001:db8:1::/48"): 1,
        ("skipped", "outside only-cidr"): 1,
    }


@needs_root
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_protocol(audit: Audits, protocol: str) -> None:
    """Only the protocol that is asked for is reported."""
    observing = audit(("protocol", protocol))
    pids = {name: send(name, "198.18.0.1", PORT)["pid"] for name in ("tcp", "udp")}
    found = observing.drain()
    assert {c.process.pid for c in found if c.process} & set(map(int, pids.values())) == {int(pids[protocol])}
    assert {connection.protocol for connection in found} == {protocol}
    assert observing.losses.snapshot()["skipped", "by protocol"] >= 1


@needs_root
def test_protocols_that_these_hooks_do_not_see(audit: Audits) -> None:
    """Asked for by name, it is said; else not."""
    said = audit(("protocol", "udp"), ("protocol", "icmp")).notices
    assert [line for line in said if "not seen" in line] == [
        "ebpf: protocol:icmp is not seen by cgroup hooks"
    ]


@needs_root
def test_module_that_is_loaded_after_the_start(audit: Audits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hook isn't there, which is said once."""
    observing = audit()
    observing.input._opened().absent.append("sctp_primitive_ASSOCIATE")
    monkeypatch.setattr(ebpf, "has_module", lambda name: name == "sctp")
    observing.notices.clear()
    for _ in range(2):
        observing.input._look_for_modules()
    (said,) = observing.notices
    assert "module sctp was loaded after the start" in said


@needs_root
@pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
def test_tracing_that_is_switched_off_meanwhile(
    audit: Audits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Said once each time, with the way on, and when it is over; hooks of cgroups don't mind."""
    observing = audit()
    observing.notices.clear()
    observing.input._opened().kind = kind
    switch = tmp_path / "ftrace_enabled"
    monkeypatch.setattr(kernel, "FTRACE_ENABLED", switch)
    off = "ebpf: nothing is seen: function tracing is switched off: sysctl kernel.ftrace_enabled=1"
    on = "ebpf: function tracing is on again: what was not seen before is not counted"
    for text in ("1", "0", "0", "1", "1", "0"):
        switch.write_text(f"{text}\n")
        observing.input.refresh_losses()
    assert observing.notices == ([] if kind == "cgroup" else [off, on, off])


@needs_root
def test_both_protocols_are_all(audit: Audits) -> None:
    """Asking for both is as asking for none."""
    observing = audit(("protocol", "tcp"), ("protocol", "udp"))
    pids = [send(name, "198.18.0.1", PORT)["pid"] for name in ("tcp", "udp")]
    found = observing.drain()
    assert [c.protocol for c in found if c.process and str(c.process.pid) in pids] == ["tcp", "udp"]


@needs_root
def test_loopback(audit: Audits) -> None:
    """Connections to this host are hidden and counted, unless they are asked for."""
    hiding, showing = audit(EACH), audit(EACH, ("allow-loopback", "true"))
    sent = send("udpaddrs", PORT, "127.0.0.1", "::1")
    assert hiding.drain(sent["pid"]) == []
    assert [connection.dest_ip for connection in showing.drain(sent["pid"])] == ["127.0.0.1", "::1"]
    reason = "to loopback (-I ebpf:allow-loopback:true shows them)"
    assert hiding.losses.snapshot()["skipped", reason] >= 2
    assert ("skipped", reason) not in showing.losses.snapshot()


@needs_root
def test_process_rules(audit: Audits) -> None:
    """A process that is hidden by name is counted by the pattern."""
    observing = audit(EACH, ("ignore-comm", "hide*"), ONLY_PORT)
    send("named", "hideme", "udp", "198.18.0.1", PORT, 4)
    shown = send("named", "shown", "udp", "198.18.0.1", PORT, 2)
    assert [c.process.pid for c in observing.drain() if c.process] == [int(shown["pid"])] * 2
    assert observing.losses.snapshot()["skipped", "by ignore-comm:hide*"] == 4


@needs_root
def test_cgroup_hooks_say_what_they_do_not_see(audit: Audits) -> None:
    """The user is told what is less with these hooks, and nothing else."""
    observing = audit()
    text = "ebpf: cgroup hooks: requests are seen, not their results; connected UDP is seen at its connect"
    assert observing.notices == [text]


@needs_root
def test_auto_takes_the_next_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that do not attach are passed over, cheapest first, with the kernel's words for --debug."""

    def only_cgroup(kind: str, settings: Settings) -> Session:
        if kind != "cgroup":
            raise AttachError(kind, "load: EPERM", {errno.EPERM}, f"words on {kind}")
        return Session(kind, settings)

    monkeypatch.setattr(ebpf, "rule_out", lambda kind: None)
    monkeypatch.setattr(ebpf, "Session", only_cgroup)
    observing = Audit().open()
    observing.input.close()
    assert observing.said[0] == "ebpf: fentry: load: EPERM\nwords on fentry"
    assert observing.said[1] == "ebpf: kprobe: load: EPERM\nwords on kprobe"
    assert observing.said[2].startswith("ebpf: cgroup: connect4, ")


def test_nothing_attaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the one cause and what was tried; nothing is left open."""

    def none(kind: str, _: Settings) -> Session:
        raise AttachError(kind, "load: EPERM", {errno.EPERM}, "")

    monkeypatch.setattr(ebpf, "rule_out", lambda kind: None)
    monkeypatch.setattr(ebpf, "Session", none)
    monkeypatch.setattr(kernel, "explain", lambda codes, _: f"the cause of {sorted(codes)}")
    observing = Audit()
    with pytest.raises(UnsupportedError) as caught:
        observing.open()
    tried = "; ".join(f"{kind}: load: EPERM" for kind in ("fentry", "kprobe", "cgroup"))
    assert str(caught.value) == f"ebpf: nothing could be attached: the cause of [1] ({tried})"
    observing.input.close()


@needs_root
def test_kinds_that_are_ruled_out_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying them takes longer than all else at the start; why is in the error and in --debug's words all the same."""
    tried: list[str] = []

    def ruled_out(kind: str) -> None:
        if kind != "cgroup":
            raise AttachError(kind, "ruled out", {errno.EPERM}, "")

    def none(kind: str, _: Settings) -> Session:
        tried.append(kind)
        raise AttachError(kind, "load: EPERM", {errno.EPERM}, "")

    monkeypatch.setattr(ebpf, "rule_out", ruled_out)
    monkeypatch.setattr(ebpf, "Session", none)
    observing = Audit()
    with pytest.raises(
        UnsupportedError, match=r"\(fentry: ruled out; kprobe: ruled out; cgroup: load: EPERM\)$"
    ):
        observing.open()
    assert tried == ["cgroup"]
    assert observing.said[0].startswith("ebpf: fentry: ruled out")


def test_kind_that_was_asked_for_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kind than the wanted one is never taken instead."""
    tried: list[str] = []

    def none(kind: str, _: Settings) -> Session:
        tried.append(kind)
        raise AttachError(kind, "load: EPERM", {errno.EPERM}, "")

    monkeypatch.setattr(ebpf, "Session", none)
    with pytest.raises(UnsupportedError):
        Audit(("attach", "kprobe")).open()
    assert tried == ["kprobe"]


@needs_root
def test_functions_that_are_left_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6, for example, is said to be one."""

    def partial(kind: str, settings: Settings) -> Session:
        session = Session("cgroup", settings)
        session.missing.append("tcp_v6_connect (not in this kernel)")
        return session

    monkeypatch.setattr(ebpf, "Session", partial)
    observing = Audit(("attach", "fentry")).open()
    observing.input.close()
    assert observing.notices == ["ebpf: left out: tcp_v6_connect (not in this kernel)"]


@needs_root
def test_other_pid_namespace() -> None:
    """In a container: its own processes by the container's numbers, others by the host's, which is said."""
    code = (
        "import sys\n"
        "from tests.inputs.test_ebpf import Audit, CGROUP, EACH, send\n"
        "audit = Audit(CGROUP, EACH).open()\n"
        "print('ready', flush=True)\n"
        "outside = int(sys.stdin.readline())\n"
        f"sent = send('named', 'inside', 'udp', '198.18.0.1', {PORT})\n"
        "found = audit.drain()\n"
        "inner = [c.process for c in found if c.process.comm == 'inside']\n"
        "outer = [c.process for c in found if c.process.comm == 'outside']\n"
        "print([p.pid for p in inner] == [int(sent['pid'])], [p.pid for p in outer] == [outside])\n"
        "print('named inside' in inner[0].cmdline, 'named outside' in outer[0].cmdline)\n"
        "print(audit.losses.total('unattributed'))\n"
        "print(audit.notices[-1])\n"
        "audit.input.close()\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "ready\n"
        outside = send("named", "outside", "udp", "198.18.0.1", PORT)
        said, errors = inside.communicate(f"{outside['pid']}\n", timeout=60)
    assert inside.returncode == 0, errors
    *facts, notice = said.splitlines()
    assert facts == ["True True", "True True", "0"]
    assert notice == (
        "ebpf: running in a pid namespace: pids of processes outside of it are those of the host, "
        "and /proc here can't tell about them"
    )


def test_read_before_open() -> None:
    """An input that is not open has nothing to read."""
    with pytest.raises(InputError, match=r"^ebpf: not open$"):
        next(iter(Ebpf(options()).read()))


def test_close_without_open() -> None:
    """What was never opened can be closed, and its counters asked for."""
    observing = Audit()
    observing.input.refresh_losses()
    observing.input.close()
    observing.input.close()
    assert observing.losses.snapshot() == {}


@needs_root
def test_close_keeps_the_counters(audit: Audits) -> None:
    """What was counted until close is in the losses, also when nothing was read."""
    observing = audit(EACH, ONLY_PORT, ("ring", "65536"))
    send("udp", "198.18.0.1", PORT, 1000)
    observing.input.close()
    observing.input.close()
    assert observing.losses.total("lost") > 0


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("attach", "tracepoint", "must be one of auto, fentry, kprobe, cgroup"),
        ("window", "10", "must be a duration with a unit"),
        ("window", "-1s", "must be a duration with a unit"),
        ("protocol", "raw", "must be one of tcp, udp, udplite, icmp, sctp, packet, other"),
        ("ignore-cidr", "10.0.0.0/33", "must be an address or network"),
        ("only-cidr", "example.com", "must be an address or network"),
        ("ignore-port", "0", "must be 1..65535"),
        ("ignore-port", "9-8", "must not end before it starts"),
        ("only-port", "65536", "must be 1..65535"),
        ("ring", "65535", "must be 64K..1G"),
        ("ring", "2G", "must be 64K..1G"),
        ("flows", "0", "must be 1..4194304"),
        ("flows", "4194305", "must be 1..4194304"),
        ("quiet", "maybe", "must be true or false"),
        ("allow-loopback", "2", "must be true or false"),
        ("ignore-prot", "53", "no such option; did you mean 'ignore-port'?"),
    ],
)
def test_wrong_options(key: str, text: str, message: str) -> None:
    """Each option says what it takes, with the pair that was given."""
    with pytest.raises(UsageError) as caught:
        options((key, text))
    assert str(caught.value).startswith(f"-I ebpf:{key}")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["ignore-comm", "ignore-cmdline", "ignore-parent", "ignore-grandparent"])
def test_empty_pattern(key: str) -> None:
    """An empty pattern is refused before anything is attached."""
    with pytest.raises(UsageError, match=f"^{key}: the pattern must not be empty$"):
        Ebpf(options((key, "")))


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ([], "window_ns", 10_000_000_000),
        ([("window", "1m30s")], "window_ns", 90_000_000_000),
        ([("ring", "256K")], "ring_bytes", 256 << 10),
        ([("flows", "7")], "flows", 7),
        ([("ignore-port", "1-65535"), ("only-cidr", "::/0")], "rules", 2),
        ([("protocol", "tcp"), ("protocol", "icmp"), ("protocol", "tcp")], "wants", ("tcp", "icmp")),
        ([("ignore-cidr", "::/0")], "only_cidrs", False),
        ([("only-port", "1")], "only_ports", True),
    ],
)
def test_settings(given: list[tuple[str, str]], field: str, value: Any) -> None:
    """Options reach the kernel side under their own name."""
    assert getattr(Ebpf(options(*given))._make_settings(may_change=False), field) == value


THREADS = """
import socket, threading
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        for _ in range(5000):
            own.sendto(b"", ("127.9.9.9", 9))
threads = [threading.Thread(target=send) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@needs_root
@pytest.mark.parametrize("window_ns", [20_000, 1_000_000])
def test_one_flow_from_several_cpus_is_counted_exactly(window_ns: int) -> None:
    """Threads that send in one flow at once, over many ends of its window, add up to what they sent."""
    seen = observe(
        "cgroup",
        lambda: subprocess.run([sys.executable, "-c", THREADS], check=True),
        allow_loopback=True,
        window=window_ns,
    )
    counts = [c.count for c in seen if c.dest_ip == "127.9.9.9"]
    assert len(counts) > 1
    assert sum(counts) + seen.losses.total("lost") == 20_000


@needs_resolver
def test_names_of_destinations() -> None:
    """What the process asked for comes with its connection, and is filtered by."""
    code = (
        "import socket, dns.resolver\n"
        "resolver = dns.resolver.Resolver(configure=False)\n"
        f"resolver.nameservers = [{SERVER!r}]\n"
        "with socket.socket(type=socket.SOCK_DGRAM) as one:\n"
        "    for name in 'www.example.', 'one.example.':\n"
        f"        one.sendto(b'', (resolver.resolve(name)[0].to_text(), {PORT}))\n"
    )
    audit = Audit(CGROUP, EACH, ONLY_PORT, ("ignore-name", "*.example"), ("names", "dns"))
    other = Audit(CGROUP, EACH, ONLY_PORT, ("names", "dns"))
    try:
        with resolving():
            audit.open()
            other.open()
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            hidden, shown = audit.drain(), other.drain()
    finally:
        audit.input.close()
        other.input.close()
    assert {(c.dest_ip, c.dest_names, c.dest_name_sources) for c in shown} == {
        ("198.18.2.1", ("www.example", "alias.example", "edge.cdn.example"), ("dns",) * 3),
        ("198.18.1.1", ("one.example",), ("dns",)),
    }
    assert hidden == []
    assert audit.losses.snapshot()["skipped", "by ignore-name:*.example"] == 2

# SPDX-License-Identifier: MIT
"""The nfqueue input on real queues, in network namespaces of its own: who may connect, and what becomes of the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyegress.errors import InputError, UsageError
from pyegress.inputs import nfqueue
from pyegress.losses import Losses
from pyegress.options import Queues
from pyegress.plugin import Context
from tests.island import Audit, Island, fields, island
from tests.names.resolving import dnsmasq, needs_resolver

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HERE_4, HERE_6 = "192.0.2.7", "2001:db8::7"
"""Addresses of the namespace itself, where somebody listens on PORT: what passes is answered."""
PORT, OTHER = 443, 444
# A loaded machine may need longer than the default of the time-out.
UNHURRIED = ("-i", "nfqueue", "-I", "nfqueue:queue:7", "-I", "nfqueue:timeout:30s")
QUIET = ("-o", "logfmt", *UNHURRIED, "-I", "nfqueue:quiet:true")
QUEUE_NEW = ("OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", "7")
# Connects, waits for an answer or an error for as long as it takes, and says which.
CONNECT = """
import errno, socket, sys
from pathlib import Path
Path("/proc/self/comm").write_text(sys.argv[1])
for address, port in zip(sys.argv[2::2], sys.argv[3::2]):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(float(sys.stdin.readline()))
    try:
        made.connect((address, int(port)))
        print("accepted")
    except TimeoutError:
        print("dropped")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
LISTEN = """
import socket, sys
kept = []
for family in (socket.AF_INET, socket.AF_INET6):
    for port in (443, 444):
        made = socket.create_server(("", port), family=family, backlog=4096)
        kept.append(made)
print("ready", flush=True)
sys.stdin.read()
"""

# Asks for names where there are any, then connects.
ASK = """
import errno, socket, sys
import dns.resolver
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers = ["192.0.2.7"]
for name in sys.argv[2:]:
    resolver.resolve(name, "A", lifetime=60)
made = socket.socket()
made.settimeout(60)
try:
    made.connect((sys.argv[1], 443))
    print("accepted")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.fixture
def netns() -> Iterator[Island]:
    """A namespace in which each new connection is asked about, and some are answered."""
    with island() as made:
        for program in ("iptables", "ip6tables"):
            made.run(program, "-A", *QUEUE_NEW)
        listener = made.inside(sys.executable, "-c", LISTEN)
        with subprocess.Popen(listener, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline()
            yield made


def connect(netns: Island, name: str, *where: str | int, patience_s: float = 30) -> list[str]:
    """What a program of that name gets from each connect."""
    waits = f"{patience_s}\n" * (len(where) // 2)
    return netns.run(sys.executable, "-c", CONNECT, name, *where, text=waits).split()


def program(netns: Island, code: str) -> subprocess.Popen[str]:
    """Python code at work inside, by its stdin and stdout."""
    command = netns.inside(sys.executable, "-c", code)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def options(*given: str) -> list[str]:
    """Options of the input, quiet and with a queue."""
    return [*QUIET, *(word for option in given for word in ("-I", f"nfqueue:{option}"))]


def records(audit: Audit) -> list[tuple[str, str, str, str]]:
    """Who wanted where, and the verdict, once it has ended well."""
    done = audit.stop()
    assert done.code == 0, done.err
    return [(c["proc_name"], c["dest_ip"], c["dest_port"], c["verdict"]) for c in fields(done.out)]


def test_by_default_all_is_let_through_and_recorded(netns: Island) -> None:
    """An audit, in both families."""
    with netns.audit(*QUIET) as audit:
        assert connect(netns, "curl", HERE_4, PORT, HERE_6, PORT) == ["accepted"] * 2
        found = records(audit)
    assert found == [("curl", HERE_4, "443", "accept"), ("curl", HERE_6, "443", "accept")]


@pytest.mark.parametrize(("default", "outcome"), [("drop", "dropped"), ("reject", "ECONNREFUSED")])
def test_others_than_the_allowed_are_stopped(netns: Island, default: str, outcome: str) -> None:
    """By the whole name: `curl2` isn't `curl`; a rejected program is told at once, a dropped one waits."""
    patience_s = 0.5 if default == "drop" else 30
    with netns.audit(*options("allow-comm:curl", f"default:{default}")) as audit:
        assert connect(netns, "curl", HERE_4, PORT, HERE_6, PORT) == ["accepted"] * 2
        assert connect(netns, "curl2", HERE_4, PORT, HERE_6, PORT, patience_s=patience_s) == [outcome] * 2
        assert connect(netns, "cur", HERE_4, PORT, patience_s=patience_s) == [outcome]
        found = records(audit)
    assert found == [
        ("curl", HERE_4, "443", "accept"),
        ("curl", HERE_6, "443", "accept"),
        ("curl2", HERE_4, "443", default),
        ("curl2", HERE_6, "443", default),
        ("cur", HERE_4, "443", default),
    ]
    assert any("matched: 2 by allow-comm:curl" in line for line in audit.done.err)


@pytest.mark.parametrize(
    "allowed",
    [
        f"exe:{os.path.realpath(sys.executable)}",
        "cmdline:* good *",
        "user:root",
        "cidr:192.0.2.0/24",
        "port:443",
        "comm:goo?",
    ],
)
def test_each_kind_of_permission(netns: Island, allowed: str) -> None:
    """One that matches is enough."""
    with netns.audit(*options(f"allow-{allowed}", "allow-comm:other", "default:reject")):
        assert connect(netns, "good", HERE_4, PORT) == ["accepted"]


def test_policy_file_needs_all_of_a_group(netns: Island, tmp_path: Path) -> None:
    """Name and port together; the file has the default too."""
    policy = tmp_path / "policy.toml"
    policy.write_text('default = "reject"\n[[allow]]\ncomm = "curl"\nport = [443]\n')
    with netns.audit(*options(f"policy:{policy}")):
        assert connect(netns, "curl", HERE_4, PORT, HERE_4, OTHER) == ["accepted", "ECONNREFUSED"]
        assert connect(netns, "wget", HERE_4, PORT) == ["ECONNREFUSED"]


def test_policy_file_is_read_again(netns: Island, tmp_path: Path) -> None:
    """At SIGHUP, also with another default; a mistake in it leaves the old one, and says where it is."""
    policy = tmp_path / "policy.toml"
    policy.write_text('default = "drop"\n[[allow]]\ncomm = "curl"\n')
    with netns.audit(*options(f"policy:{policy}")) as audit:

        def reread(text: str, until: str) -> None:
            policy.write_text(text)
            audit.process.send_signal(signal.SIGHUP)
            assert audit.process.stderr is not None
            assert any(until in line for line in audit.process.stderr)

        assert connect(netns, "curl", HERE_4, PORT) == ["accepted"]
        reread('default = "reject"\n[[allow]]\ncomm = "wget"\n', "another policy; default verdict: reject")
        assert connect(netns, "curl", HERE_4, PORT) == ["ECONNREFUSED"]
        reread('[[allow]]\ncom = "curl"\n', f"policy:{policy}:1: [[allow]] 1: com: no such key")
        assert connect(netns, "curl", HERE_4, PORT) == ["ECONNREFUSED"]
        assert connect(netns, "wget", HERE_4, PORT) == ["accepted"]


def test_refused_connection_makes_no_rule(netns: Island) -> None:
    """An OUTPUT chain allows only what was let through."""
    given = ["-o", "iptables", *options("allow-comm:curl", "default:reject")[2:]]
    with netns.audit(*given) as audit:
        connect(netns, "curl", HERE_4, PORT)
        connect(netns, "evil", HERE_4, OTHER)
        done = audit.stop()
    assert len(done.out) == 1 and "--dport 443" in done.out[0]
    assert any("not let through" in line for line in done.err)


def test_udp_is_refused_at_once(netns: Island) -> None:
    """A connected socket learns it from its next call."""
    code = """
import socket, sys
made = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
made.connect((sys.argv[1], 53))
made.settimeout(30)
made.send(b"x")
try:
    made.recv(1)
except ConnectionRefusedError:
    print("refused")
"""
    with netns.audit(*options("default:reject")) as audit:
        assert [netns.python(code, address) for address in ("198.51.100.9", "2001:db8:1::9")] == [
            "refused\n"
        ] * 2
        assert [verdict for *_, verdict in records(audit)] == ["reject"] * 2


def test_loopback_is_not_asked_about(netns: Island) -> None:
    """It is let through, and counted; with allow-loopback it is judged like the rest."""
    with netns.audit(*options("default:reject")) as audit:
        assert connect(netns, "a", "127.0.0.1", PORT, "::1", PORT) == ["accepted"] * 2
        assert records(audit) == []
        assert any("2 to loopback" in line for line in audit.done.err)
    with netns.audit(*options("default:reject", "allow-loopback:true")):
        assert connect(netns, "a", "127.0.0.1", PORT, "::1", PORT) == ["ECONNREFUSED"] * 2


def test_hidden_is_not_unjudged(netns: Island) -> None:
    """ignore-comm hides the record, it doesn't open the door."""
    with netns.audit(*options("ignore-comm:curl", "default:reject")) as audit:
        assert connect(netns, "curl", HERE_4, PORT) == ["ECONNREFUSED"]
        assert records(audit) == []
        assert any("skipped: 1 by ignore-comm:curl" in line for line in audit.done.err)


def test_short_lived_process_is_found(netns: Island) -> None:
    """It waits for the verdict, and so can't be gone."""
    with netns.audit(*options("allow-comm:brief", "default:reject")), ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(netns.client("idle", "udp", "127.0.0.1", 9))
        assert [connect(netns, "brief", HERE_4, PORT) for _ in range(10)] == [["accepted"]] * 10


def test_queue_in_use_is_an_error_at_start(netns: Island) -> None:
    """By its number, also in a range; the first goes on."""
    with netns.audit(*QUIET) as audit:
        command = netns.inside(sys.executable, "-m", "pyegress", "run", "--nfqueue", "5-8")
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert "queue 7 is in use" in second.stderr
        assert connect(netns, "a", HERE_4, PORT) == ["accepted"]
        assert len(records(audit)) == 1


def test_nothing_is_left_of_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the second queue can't be had, the first is let go of, and the search for processes has ended."""
    closed = []

    class OneQueue:
        def __init__(self, number: int, *given: object) -> None:
            self.number = number
            if number > 5:
                raise InputError("in use")

        def close(self) -> None:
            closed.append(self.number)

    monkeypatch.setattr(nfqueue, "Queue", OneQueue)
    made = nfqueue.Nfqueue(nfqueue.NfqueueOptions(queue=Queues(5, 6), default="reject"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(InputError, match="in use"):
        made.open(Context(losses=Losses(), notice=pytest.fail, debug=pytest.fail))
    made.close()
    assert closed == [5]
    assert "process search" not in {thread.name for thread in threading.enumerate()}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_too_many_queues_are_a_usage_error() -> None:
    """Nobody has so many CPUs, and each costs a socket."""
    with pytest.raises(UsageError, match="at most 256 queues"):
        nfqueue.Nfqueue(nfqueue.NfqueueOptions(queue=Queues(0, 256)))


def test_rules_that_stop_nothing_are_said(netns: Island) -> None:
    """Whoever allows something thinks that the rest is stopped; the default lets it through."""
    with netns.audit(*options("allow-comm:curl")) as audit:
        assert any("nothing is stopped" in line for line in audit.stop().err)
    with netns.audit(*QUIET) as audit:
        assert not any("nothing is stopped" in line for line in audit.stop().err)


def test_other_verdict_on_a_syn_sent_again_is_recorded(netns: Island) -> None:
    """A program that takes an allowed name between them gets through, and no record says otherwise."""
    code = """
import select, socket
from pathlib import Path
name = Path("/proc/self/comm")
name.write_text("evil")
made = socket.socket()
made.setblocking(False)
made.connect_ex(("192.0.2.7", 443))
input()
name.write_text("curl")
select.select([], [made], [])
"""
    given = ("-I", "nfqueue:allow-comm:curl", "-I", "nfqueue:default:drop")
    with netns.audit("-o", "logfmt", *UNHURRIED, *given) as audit:
        with program(netns, code) as sender:
            assert audit.process.stderr is not None
            assert any("(drop)" in line for line in iter(audit.process.stderr.readline, ""))
            sender.communicate("\n")
        found = records(audit)
    assert found == [("evil", HERE_4, "443", "drop"), ("curl", HERE_4, "443", "accept")]


def test_inbound_connections_are_not_reported(netns: Island) -> None:
    """A rule in INPUT is said to be wrong; its packets get the default."""
    netns.run("iptables", "-F")
    netns.run("iptables", "-A", "INPUT", *QUEUE_NEW[1:])
    with netns.audit(*QUIET) as audit:
        assert connect(netns, "a", HERE_4, PORT) == ["accepted"]
        assert records(audit) == []
    assert sum("queues PREROUTING or INPUT" in line for line in audit.done.err) == 1


def test_mark_of_refusals_opens_no_door(netns: Island) -> None:
    """Whoever may set marks is judged all the same."""
    code = CONNECT.replace(
        "    made.settimeout", "    made.setsockopt(1, 36, 0x70796567)\n    made.settimeout"
    )
    with netns.audit(*options("default:reject")) as audit:
        found = netns.run(sys.executable, "-c", code, "a", HERE_4, str(PORT), text="30\n")
        assert found == "ECONNREFUSED\n"
        assert records(audit) == [("a", HERE_4, "443", "reject")]


def test_connection_from_before_the_start_works_to_its_end(netns: Island) -> None:
    """With rules that ask about each packet: what is allowed goes on, and its end arrives although nobody has it."""
    server = """
import socket
made = socket.create_server(("", 500))
print("ready", flush=True)
peer = made.accept()[0]
peer.settimeout(30)
while got := peer.recv(10):
    print(got.decode(), flush=True)
print("end", flush=True)
"""
    client = """
import socket
from pathlib import Path
Path("/proc/self/comm").write_text("curl")
made = socket.create_connection(("192.0.2.7", 500))
print("there", flush=True)
input()
made.send(b"more")
input()
"""
    netns.run("iptables", "-F")
    with program(netns, server) as far:
        assert far.stdout is not None and far.stdout.readline() == "ready\n"
        near = program(netns, client)
        assert near.stdin is not None and near.stdout is not None and near.stdout.readline() == "there\n"
        netns.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", "500", *QUEUE_NEW[5:])
        with netns.audit(*options("allow-comm:curl", "default:drop")) as audit:
            near.stdin.write("\n")
            near.stdin.flush()
            assert far.stdout.readline() == "more\n"
            near.kill()
            near.communicate()
            assert far.stdout.readline() == "end\n"
            assert records(audit) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_pending_packets_have_a_verdict_at_the_end(netns: Island, number: signal.Signals) -> None:
    """What waits when the signal comes is let through, and seen."""
    for program in ("iptables", "ip6tables"):
        netns.run(program, "-F")
        netns.run(program, "-A", *QUEUE_NEW, "--queue-bypass")
    code = CONNECT.replace("made.connect((", "print('asking', flush=True); made.connect((")
    with netns.audit(*QUIET) as audit:
        audit.process.send_signal(signal.SIGSTOP)
        command = netns.inside(sys.executable, "-c", code, "a", HERE_4, str(PORT))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write("30\n")
            client.stdin.flush()
            assert client.stdout.readline() == "asking\n"
            wait_until_queued(netns)
            audit.process.send_signal(number)
            audit.process.send_signal(signal.SIGCONT)
            done = audit.wait()
            assert client.stdout.readline() == "accepted\n"
    assert done.code == 0
    assert len(done.out) == 1


def test_full_queue_is_counted(netns: Island) -> None:
    """Without fail-open the kernel drops, and pyegress says how many."""
    with netns.audit(*options("length:4", "default:drop")) as audit:
        audit.process.send_signal(signal.SIGSTOP)
        with netns.client("a", "burst", "198.51.100.9", 53):
            audit.process.send_signal(signal.SIGCONT)
            done = audit.stop()
    lost = [line for line in done.err if "lost:" in line and "queue 7" in line]
    assert len(lost) == 1
    seen = sum(int(c["count"]) for c in fields(done.out))
    assert int(lost[0].split()[2]) + seen == 1000


def test_fail_open_lets_through_what_finds_the_buffer_full(netns: Island) -> None:
    """It is said at start, and connects pass while nobody reads."""
    with netns.audit(*options("fail-open:true", "buffer:64K", "default:reject")) as audit:
        audit.process.send_signal(signal.SIGSTOP)
        with netns.client("a", "burst", "198.51.100.9", 53):
            assert connect(netns, "a", HERE_4, PORT) == ["accepted"]
        audit.process.send_signal(signal.SIGCONT)
        done = audit.stop()
    assert any("fail-open" in line for line in done.err)
    assert any("lost:" in line and "queue 7" in line for line in done.err)


def test_unreadable_packet_has_the_default_verdict(netns: Island) -> None:
    """A header of 16 bytes by a raw socket: counted, one line, and the next connection works."""
    code = """
import socket
made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
made.sendto(bytes.fromhex("4500001c00004000400100000000000000000000") + bytes(8), ("198.51.100.9", 0))
made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
made.sendto(b"xx", ("198.51.100.9", 0))
"""
    netns.run("iptables", "-F")
    netns.run("iptables", "-A", "OUTPUT", "-j", "NFQUEUE", "--queue-num", "7")
    with netns.audit(*QUIET) as audit:
        netns.python(code)
        assert connect(netns, "a", HERE_4, PORT) == ["accepted"]
        done = audit.stop()
    assert done.code == 0
    assert sum("unreadable" in line for line in done.err) == 1


def test_hostile_name_has_its_verdict(netns: Island) -> None:
    """Bytes that are no text hold nobody up."""
    with netns.audit(*options("default:reject")) as audit, netns.client("0xfffe", "tcp", HERE_4, PORT):
        done = audit.stop()
    (line,) = done.out
    assert r'proc_name="\udcff\udcfe"' in line and "verdict=reject" in line


def test_what_nobody_can_be_asked_about_in_time_has_the_default(netns: Island) -> None:
    """With no time at all to look in all of /proc, an unknown process isn't waited for."""
    hurried = [word.replace("30s", "1ms") for word in QUIET]
    with netns.audit(*hurried, "-I", "nfqueue:default:accept") as audit:
        assert connect(netns, "a", HERE_4, PORT) == ["accepted"]
        assert audit.stop().code == 0


def wait_until_queued(netns: Island) -> None:
    """Wait until the kernel has a packet in the queue that nobody took."""
    netns.run(
        "sh",
        "-c",
        "until awk '$1 == 7 && $3 > 0 {f=1} END {exit !f}' /proc/net/netfilter/nfnetlink_queue; do :; done",
    )


def asking(netns: Island, address: str, *names: str) -> str:
    """What a program gets from a connect to an address after it asked for names."""
    return netns.run(sys.executable, "-c", ASK, address, *names).strip()


@needs_resolver
def test_names_are_allowed(netns: Island) -> None:
    """What a name led to is let through, for those who never asked too; who asked for another name of it is refused."""
    given = options("allow-name:*.good.example", "allow-port:53", "default:reject", "names:dns")
    names = [
        *("--host-record=a.good.example,192.0.2.8", f"--host-record=bad.example,{HERE_4}"),
        *("--host-record=both.good.example,192.0.2.9", "--host-record=both.bad.example,192.0.2.9"),
    ]
    for address in ("192.0.2.8/24", "192.0.2.9/24"):
        netns.run("ip", "address", "add", address, "dev", "swallow")
    with netns.audit(*given) as audit, dnsmasq(netns.inside, HERE_4, "--no-resolv", *names):
        assert asking(netns, "192.0.2.8") == "ECONNREFUSED"
        assert asking(netns, "192.0.2.8", "a.good.example") == "accepted"
        assert asking(netns, "192.0.2.8") == "accepted"
        assert asking(netns, HERE_4, "bad.example") == "ECONNREFUSED"
        assert asking(netns, "192.0.2.9", "both.bad.example") == "ECONNREFUSED"
        assert asking(netns, "192.0.2.9", "both.good.example") == "accepted"
        assert asking(netns, "192.0.2.9", "both.bad.example") == "ECONNREFUSED"
        assert asking(netns, "192.0.2.9", "both.bad.example", "both.good.example") == "accepted"
        found = [each for each in records(audit) if each[2] == str(PORT)]
    assert [verdict for *_, verdict in found].count("accept") == 4
    assert any("by allow-name:*.good.example" in line for line in audit.done.err)


def test_names_must_be_sought(tmp_path: Path) -> None:
    """Or nothing would ever have one; also where a file asks for it."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[allow]]\nname = "a.example"\n')
    for given in ({"allow_name": ("a.example",)}, {"policy": str(policy)}):
        with pytest.raises(UsageError, match="^nfqueue:allow-name: needs names; add -I nfqueue:names:dns$"):
            nfqueue.Nfqueue(nfqueue.NfqueueOptions(**given))

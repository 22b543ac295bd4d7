# SPDX-License-Identifier: MIT
"""The nflog input on real rules of iptables and nft, in network namespaces of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress.errors import InputError
from pyegress.inputs import nflog
from pyegress.losses import Losses
from pyegress.netfilter.log import LogGroup
from pyegress.plugin import Context
from tests.island import FAR_4, FAR_6, LOCAL_4, Audit, Island, fields, island

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

LOG_ALL = ("OUTPUT", "-j", "NFLOG", "--nflog-group", "7")
QUIET = ("-o", "logfmt", "-i", "nflog", "-I", "nflog:group:7", "-I", "nflog:quiet:true")


@pytest.fixture
def netns() -> Iterator[Island]:
    """A namespace in which all outbound packets are logged to group 7."""
    with island() as made:
        made.run("iptables", "-A", *LOG_ALL)
        # The kernel itself sends to multicast groups when an interface comes up.
        made.run("ip6tables", "-A", *LOG_ALL, "!", "-d", "ff00::/8")
        yield made


def seen(audit: Audit) -> list[dict[str, str]]:
    """What was reported, once it has ended well."""
    done = audit.stop()
    assert done.code == 0, done.err
    return fields(done.out)


def destinations(found: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Who connected where."""
    return sorted(
        (c["protocol"], c["dest_ip"], c.get("dest_port", ""), c.get("proc_name", "")) for c in found
    )


def test_each_family_and_protocol_with_its_process(netns: Island) -> None:
    """IPv4 and IPv6 on one group, TCP and unconnected and connected UDP, IPv4 over an AF_INET6 socket."""
    words: tuple[str | int, ...] = ("tcp", FAR_4, 443, "tcp", FAR_6, 443, "udp", FAR_4, 53, "udp", FAR_6, 53)
    words += ("udpconn", FAR_4, 54, "mapped", FAR_4, 55, "mappedtcp", FAR_4, 80, "redirect", FAR_4, 56)
    with netns.audit(*QUIET) as audit, netns.client("wanderer", *words) as pid:
        found = seen(audit)
    assert destinations(found) == [
        ("tcp", FAR_4, "443", "wanderer"),
        ("tcp", FAR_4, "80", "wanderer"),
        ("tcp", FAR_6, "443", "wanderer"),
        ("udp", FAR_4, "53", "wanderer"),
        ("udp", FAR_4, "54", "wanderer"),
        ("udp", FAR_4, "55", "wanderer"),
        ("udp", FAR_4, "56", "wanderer"),
        ("udp", FAR_6, "53", "wanderer"),
    ]
    for connection in found:
        assert connection["hook"] == "nflog"
        assert connection["proc_pid"] == str(pid)
        assert connection["attribution"] == "sock_diag"
        assert connection["proc_user"] == "root"
        assert "\x00" not in str(connection)
    assert {c["src_ip"] for c in found if c["ip_version"] == "4"} == {LOCAL_4}


def test_rules_of_nft(netns: Island) -> None:
    """`log group` of an inet table brings both families."""
    netns.run("iptables", "-F")
    netns.run("ip6tables", "-F")
    netns.run("nft", "-f", "-", text=NFT_LOG)
    with netns.audit(*QUIET) as audit, netns.client("a", "tcp", FAR_4, 443, "udp", FAR_6, 53):
        found = seen(audit)
    assert destinations(found) == [("tcp", FAR_4, "443", "a"), ("udp", FAR_6, "53", "a")]


def test_the_printed_rules_work(netns: Island) -> None:
    """What `rules-for nflog` prints is loaded as it is."""
    netns.run("iptables", "-F")
    netns.run("ip6tables", "-F")
    rules = subprocess.run(
        [sys.executable, "-m", "pyegress", "rules-for", "nflog", "--group", "7"],
        capture_output=True,
        text=True,
        check=True,
    )
    netns.run("sh", "-e", text=rules.stdout)
    with netns.audit(*QUIET) as audit, netns.client("a", "tcp", FAR_4, 443, "udp", FAR_6, 53):
        found = seen(audit)
    assert destinations(found) == [("tcp", FAR_4, "443", "a"), ("udp", FAR_6, "53", "a")]


def test_loopback_is_shown_when_allowed(netns: Island) -> None:
    """In both families; without the option it is counted."""
    words = ("udp", "127.0.0.1", 9, "udp", "::1", 9)
    with netns.audit(*QUIET) as audit, netns.client("a", *words):
        assert seen(audit) == []
        assert any("to loopback (-I nflog:allow-loopback:true" in line for line in audit.done.err)
    with netns.audit(*QUIET, "-I", "nflog:allow-loopback:true") as audit, netns.client("a", *words):
        found = [connection for connection in seen(audit) if connection["protocol"] == "udp"]
    assert destinations(found) == [("udp", "127.0.0.1", "9", "a"), ("udp", "::1", "9", "a")]


def test_ignore_options_are_those_of_ebpf(netns: Island) -> None:
    """Each hides its part, and says how much."""
    ignored = (
        "cidr:198.51.100.9",
        "port:53",
        "comm:evil*",
        "cmdline:client.py b",
        "parent:nobody",
        "grandparent:x",
    )
    options = [word for option in ignored for word in ("-I", f"nflog:ignore-{option}")]
    with (
        netns.audit(*QUIET, *options) as audit,
        netns.client("evil1", "tcp", FAR_6, 1),
        netns.client("b", "tcp", FAR_6, 2),
        netns.client("c", "tcp", FAR_4, 3, "udp", FAR_6, 53, "tcp", FAR_6, 4),
    ):
        found = seen(audit)
    assert destinations(found) == [("tcp", FAR_6, "4", "c")]
    said = "\n".join(audit.done.err)
    for rule in ("cidr:198.51.100.9/32", "port:53", "comm:evil*", "cmdline:client.py b"):
        assert f"skipped: 1 by ignore-{rule}" in said


def test_parent_is_filtered_by(netns: Island) -> None:
    """ignore-parent hides what this test starts."""
    with (
        netns.audit(*QUIET, "-I", f"nflog:ignore-parent:{own_name()}") as audit,
        netns.client("a", "tcp", FAR_4, 443),
    ):
        assert seen(audit) == []


def test_flow_is_reported_once_with_its_count(netns: Island) -> None:
    """A thousand datagrams are two records: the first at once, the rest at the end."""
    with netns.audit(*QUIET, "-I", "nflog:window:1h") as audit, netns.client("a", "burst", FAR_4, 53):
        found = seen(audit)
    assert [int(connection["count"]) for connection in found] == [1, 999]


def test_header_only_packets_are_counted(netns: Island) -> None:
    """With --nflog-size there may be no ports, or nothing at all: a notice and a count, never an error."""
    netns.run("iptables", "-F")
    for size in (20, 0):
        netns.run("iptables", "-A", *LOG_ALL, "--nflog-size", size)
    with netns.audit(*QUIET) as audit, netns.client("a", "udp", FAR_4, 53, "udp", FAR_6, 53):
        found = seen(audit)
    assert destinations(found) == [("udp", FAR_6, "53", "a")]
    assert sum("are counted, not shown" in line for line in audit.done.err) == 1
    assert (
        sum(int(line.split()[2]) for line in audit.done.err if line.startswith("pyegress: unreadable:")) == 2
    )


def test_packet_that_two_rules_log_is_one_connection(netns: Island) -> None:
    """Also where the second copy is cut."""
    netns.run("iptables", "-A", *LOG_ALL, "--nflog-prefix", "second ")
    netns.run("nft", "-f", "-", text=NFT_LOG.replace("group 7", "group 7 snaplen 20"))
    with netns.audit(*QUIET) as audit, netns.client("a", "udp", FAR_4, 53, "tcp", FAR_4, 443):
        found = seen(audit)
    assert {c["dest_port"] for c in found} == {"53", "443"}
    assert [c["protocol"] for c in found].count("tcp") == 1
    assert sum(c["dest_port"] == "53" for c in found) <= 2  # the first, and its count
    assert "second" not in "\n".join((*audit.done.out, *audit.done.err))


def test_ping_is_a_connection_without_a_port(netns: Island) -> None:
    """And a rule for it has no port."""
    with (
        netns.audit(
            "-o", "iptables", "-i", "nflog", "-I", "nflog:group:7", "-I", "nflog:quiet:true"
        ) as audit,
        netns.client("a", "ping", FAR_4, 0),
    ):
        done = audit.stop()
    (rule,) = done.out
    assert f"-d {FAR_4} -p 1 -j ACCEPT" in rule


def test_process_that_has_gone_leaves_its_user(netns: Island) -> None:
    """The owner that netfilter told stays, with the reason; never another process."""
    with netns.audit(*QUIET) as audit:
        audit.process.send_signal(signal.SIGSTOP)
        with netns.client("a", "udp", FAR_4, 53):
            pass
        audit.process.send_signal(signal.SIGCONT)
        (connection,) = seen(audit)
    assert "proc_pid" not in connection and "proc_name" not in connection
    assert connection["proc_user"] == "root"
    assert any("unattributed: 1 process gone" in line for line in audit.done.err)


def test_forwarded_packets_are_never_this_hosts(netns: Island) -> None:
    """Those of another namespace are that process's, or unknown; never one's here with the same address and port."""
    netns.run("iptables", "-A", "FORWARD", *LOG_ALL[1:])
    with island() as inner:
        connect(netns, inner)
        code = "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);"
        code += "s.bind(('10.9.0.2',5555));s.sendto(b'x',(sys.argv[1],53));sys.stdin.read()"
        decoy = "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);"
        decoy += "s.bind(('0.0.0.0',5555));print('ready',flush=True);sys.stdin.read()"
        with (
            subprocess.Popen(
                netns.inside(sys.executable, "-c", decoy), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as host,
            netns.audit(*QUIET, "-C", "1") as audit,
        ):
            assert host.stdout is not None and host.stdout.readline()
            guest = subprocess.Popen(inner.inside(sys.executable, "-c", code, FAR_4), stdin=subprocess.PIPE)
            try:
                (connection,) = fields(audit.wait().out)
            finally:
                guest.communicate()
        assert (connection["src_ip"], connection["src_port"]) == ("10.9.0.2", "5555")
        assert connection.get("proc_pid") == str(guest.pid)


def test_group_in_use_is_told_from_no_permission(netns: Island) -> None:
    """One line each, with the cause; exit status 1."""
    with netns.audit(*QUIET):
        second = run(netns, *QUIET)
    assert second.returncode == 1
    assert "group 7 is in use" in second.stderr
    third = run(netns, *QUIET, before=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"))
    assert third.returncode == 1
    assert "CAP_NET_ADMIN" in third.stderr
    assert len(second.stderr.splitlines()) == len(third.stderr.splitlines()) == 1


def test_full_buffer_is_counted_and_capture_goes_on(netns: Island) -> None:
    """What did not fit is lost by number, and what comes later is seen."""
    with netns.audit(*QUIET, "-I", "nflog:buffer:64K", "-I", "nflog:window:0") as audit:
        audit.process.send_signal(signal.SIGSTOP)
        with netns.client("a", "burst", FAR_4, 53, "burst", FAR_4, 54):
            audit.process.send_signal(signal.SIGCONT)
            with netns.client("b", "tcp", FAR_4, 443):
                found = seen(audit)
    lost = [int(line.split()[2]) for line in audit.done.err if "could not deliver" in line]
    assert len(lost) == 1
    assert len(found) + lost[0] == 2001
    assert ("tcp", FAR_4, "443", "b") in destinations(found)


def test_what_waits_at_the_stop_is_reported(netns: Island) -> None:
    """More than is taken at a time, and what no later packet tells of is lost by count."""
    with netns.audit(*QUIET, "-I", "nflog:buffer:4M", "-I", "nflog:window:1h") as audit:
        audit.process.send_signal(signal.SIGSTOP)
        bursts = [word for port in range(1, 21) for word in ("burst", FAR_4, port)]
        with netns.client("a", *bursts):
            audit.process.send_signal(signal.SIGINT)
            audit.process.send_signal(signal.SIGCONT)
            done = audit.wait()
    lost = [int(line.split()[2]) for line in done.err if "could not deliver" in line]
    arrived = sum(int(connection["count"]) for connection in fields(done.out))
    assert arrived > 2048
    assert len(lost) == 1
    assert arrived + lost[0] == 20_000


def test_nothing_is_left_of_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search for processes has open is closed when the group can't be had."""

    def refused(group: int, buffer_bytes: int) -> LogGroup:
        raise InputError("in use")

    monkeypatch.setattr(nflog, "LogGroup", refused)

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    made = nflog.Nflog(nflog.NflogOptions())
    with pytest.raises(InputError, match="in use"):
        made.open(Context(losses=Losses(), notice=pytest.fail, debug=pytest.fail))
    assert open_files() > before
    made.close()
    assert open_files() == before


def test_hostile_name(netns: Island) -> None:
    """Bytes that are no text, and what a terminal would obey, come out escaped."""
    name = b'\xff\x1b[31m "x'
    with netns.audit(*QUIET) as audit, netns.client("0x" + name.hex(), "tcp", FAR_4, 443):
        seen(audit)
    (line,) = audit.done.out
    assert line.isprintable()
    assert r'proc_name="\udcff\u001b[31m \"x"' in line


def test_two_inputs_at_once(netns: Island) -> None:
    """Each reports what it sees."""
    both = ("-i", "nflog", "-i", "pcap", "-I", "nflog:group:7", "-I", "pcap:device:swallow")
    with (
        netns.audit("-o", "logfmt", *both, "-I", "nflog:quiet:true", "-I", "pcap:quiet:true") as audit,
        netns.client("a", "tcp", FAR_4, 443),
    ):
        found = seen(audit)
    assert sorted((c["hook"], c["dest_port"], c["proc_name"]) for c in found) == [
        ("nflog", "443", "a"),
        ("pcap", "443", "a"),
    ]


NFT_LOG = """
table inet test {
    chain out {
        type filter hook output priority 0;
        ip6 daddr ff00::/8 accept
        log group 7
    }
}
"""


def own_name() -> str:
    """The comm of this process."""
    return Path("/proc/self/comm").read_text().strip()


def run(netns: Island, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """pyegress that ends by itself."""
    command = netns.inside(*before, sys.executable, "-m", "pyegress", "run", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def connect(outer: Island, inner: Island) -> None:
    """A veth between two namespaces; the inner one reaches the outside through the outer one."""
    outer.run("ip", "link", "add", "below", "type", "veth", "peer", "name", "above", "netns", inner.pid)
    outer.run("ip", "address", "add", "10.9.0.1/24", "dev", "below")
    outer.run("ip", "link", "set", "below", "up")
    outer.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    inner.run("ip", "address", "add", "10.9.0.2/24", "dev", "above")
    inner.run("ip", "link", "set", "above", "up")
    inner.run("ip", "route", "replace", "198.51.100.0/24", "via", "10.9.0.1")


def test_filters_are_read_again(netns: Island, tmp_path: Path) -> None:
    """At SIGHUP, with nothing lost: what was sent is reported or counted as hidden."""
    config = tmp_path / "x.toml"

    def text(port: int) -> str:
        return f"[inputs.nflog]\ngroup = 7\nquiet = true\n[filters]\nignore-port = {port}\n"

    config.write_text(text(1))
    with netns.audit("-c", str(config), "-o", "logfmt") as audit:
        for port in (2, 1, 2):
            with netns.client("a", "tcp", FAR_4, 1, "tcp", FAR_4, 2, "udp", FAR_4, 1, "udp", FAR_4, 2):
                config.write_text(text(port))
                audit.process.send_signal(signal.SIGHUP)
                assert audit.process.stderr is not None
                assert any("nflog: changed: ignore-port" in line for line in audit.process.stderr)
        with netns.client("b", "tcp", FAR_4, 1, "tcp", FAR_4, 2):
            found = seen(audit)
    assert [record["dest_port"] for record in found if record.get("proc_name") == "b"] == ["1"]
    hidden = [int(line.split()[2]) for line in audit.done.err if " by ignore-port:" in line]
    assert sum(int(record.get("count", "1")) for record in found) + sum(hidden) == 14

# SPDX-License-Identifier: MIT
"""The truth test for names: audit, rules by name, a policy that drops; then the name moves, and its rules with it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.applying import backend_path
from tests.island import PATIENCE_S, Island
from tests.names.resolving import dnsmasq, needs_resolver
from tests.truth import DEVICE, FIREWALLS, NET_4, NET_6, UNITS, Actor, Sent, World, needs_firewalls, world

pytestmark = [needs_firewalls, needs_resolver]

RESOLVER = "192.0.2.7"
WHO = Actor(0, UNITS[0])
NAME = "cdn.example"
# getaddrinfo would try each address over UDP, to sort them.
ASK = "import dns.resolver, sys; print([dns.resolver.resolve(sys.argv[1], kind) for kind in ('A', 'AAAA')])"
OLD = [Sent("tcp", NET_4 + "8", 443), Sent("tcp", NET_6 + "8", 443)]
BARE = Sent("tcp", NET_4 + "22", 22)
NEW = [Sent("tcp", NET_4 + "9", 443), Sent("tcp", NET_6 + "9", 443)]
NEVER = [
    *(Sent("tcp", address, 80) for address in (NET_4 + "8", NET_4 + "9", NET_6 + "9")),
    *(Sent("tcp", NET_4 + "77", 443), Sent("udp", NET_4 + "8", 443)),
]
ALL = [*OLD, BARE, *NEW, *NEVER]
# A stranger's resolver: nobody is configured to ask it.
STRANGER, LIE = "127.0.0.8", Sent("tcp", NET_4 + "77", 443)
ASK_STRANGER = """
import dns.resolver, sys
found = dns.resolver.Resolver(configure=False)
found.nameservers = [sys.argv[1]]
print(found.resolve(sys.argv[2], "A"))
"""
# At once after the answer; the kernel sends again what was dropped because the set wasn't filled yet.
ASK_AND_CONNECT = f"""
import dns.resolver, socket, sys
for kind in ("A", "AAAA"):
    (address,) = dns.resolver.resolve(sys.argv[1], kind)
    socket.create_connection((address.to_text(), 443), timeout={PATIENCE_S}).close()
"""
FAR = f"""
set -e
ip link set lo up
ip route add local {NET_4}0/24 dev lo
ip -6 route add local {NET_6}/48 dev lo
echo ready
exec sleep infinity
"""
SERVE = """
import signal, socket
server = socket.create_server(("", 443), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
print("ready", flush=True)
signal.pause()
"""
FILES = {
    "nft": ("nftables", ["rules"]),
    "iptables-nft": ("restore", ["rules.v4", "rules.v6"]),
    "iptables-legacy": ("restore", ["rules.v4", "rules.v6"]),
}
USED = [each for each in FILES if each == "nft" or shutil.which("ipset")]
"""ipset isn't everywhere."""


@contextmanager
def naming(host: World, sent: list[Sent]) -> Iterator[None]:
    """A resolver that knows where the name leads."""
    with dnsmasq(
        host.inside, RESOLVER, "--no-resolv", f"--host-record={NAME},{','.join(e.address for e in sent)}"
    ):
        yield


def use(firewall: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the host's iptables be of that backend."""
    if firewall == "iptables-legacy":
        monkeypatch.setenv("PATH", backend_path(folder, "legacy"))


def observe(host: World, log: Path) -> None:
    """Somebody asks for the name, and goes where it leads; and elsewhere without a name."""
    cidrs = [word for cidr in (NET_4 + "0/24", NET_6 + "/48") for word in ("-I", f"ebpf:only-cidr:{cidr}")]
    given = ("-i", "ebpf", *cidrs, "-I", "ebpf:names:dns", "-I", "ebpf:quiet:true")
    with host.audit(*given, "-o", "logfmt", "-O", f"logfmt:file:{log}") as running:
        host.python(ASK, NAME)
        assert host.send(WHO, [*OLD, BARE]) == {*OLD, BARE}
    assert running.done.code == 0, running.done.err
    assert log.read_text().count(f" dest_names={NAME} ") == len(OLD)


def test_rules_follow_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was seen passes, nothing else; after a refresh also where the name leads now, and where it led before."""
    log = tmp_path / "seen.log"
    (tmp_path / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions attempts:10\n")
    with world() as host:
        host.run("mount", "--bind", tmp_path / "resolv.conf", "/etc/resolv.conf")
        with naming(host, OLD):
            observe(host, log)
            made = ("--merge", "name", "--baseline", "--policy", "drop", "--file", tmp_path / "rules", log)
            kinds = dict.fromkeys(FILES[each][0] for each in USED)
            host.pyegress([["rules", "--as", kind, *made] for kind in kinds])
        for firewall in USED:
            use(firewall, monkeypatch, tmp_path)
            files = [tmp_path / name for name in FILES[firewall][1]]
            proofs = ["rules", *(word for file in files for word in ("--verify", file)), log]
            assert host.pyegress([proofs])[0].startswith("0 of 3 observed connections would be dropped\n")
            if firewall != "nft":
                host.run("ipset", "restore", text=(tmp_path / "rules.ipset").read_text())
            FIREWALLS[firewall].load(host, [file.read_text() for file in files])
            assert host.send(WHO, ALL) == {*OLD, BARE}
            with naming(host, NEW):
                host.run(sys.executable, "-m", "pyegress", "names", "refresh")
            assert host.send(WHO, ALL) == {*OLD, BARE, *NEW}
            host.pyegress([["rules", "--diff", *files]])
            FIREWALLS[firewall].unload(host)
            if firewall != "nft":
                host.run("ipset", "destroy")


@contextmanager
def served(host: World) -> Iterator[None]:
    """Somebody is at all addresses, and takes connections to port 443."""
    far = Island(FAR)
    try:
        # Without ARP frames are for who sends them.
        (device,) = json.loads(host.run("ip", "-j", "link", "show", DEVICE))
        host.run("ip", "link", "set", "swallowed", "netns", far.pid)
        far.run("ip", "link", "set", "swallowed", "address", device["address"], "arp", "off", "up")
        far.run("ip", "route", "add", "192.0.2.0/24", "dev", "swallowed")
        far.run("ip", "-6", "route", "add", "2001:db8:7::/64", "dev", "swallowed")
        command = far.inside(sys.executable, "-c", SERVE)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                server.kill()
    finally:
        far.close()


@contextmanager
def following(host: World) -> Iterator[list[str]]:
    """`pyegress names follow` inside; what it says at its end is in the list after the block."""
    said: list[str] = []
    command = host.inside(sys.executable, "-m", "pyegress", "names", "follow")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "pyegress: following 1 names; press ctrl-c to stop\n"
            yield said
            process.send_signal(signal.SIGTERM)
            said += process.communicate(timeout=PATIENCE_S)[1].splitlines()
            assert process.returncode == 0, said
        finally:
            process.kill()


@pytest.mark.parametrize("firewall", USED)
def test_answers_are_followed(firewall: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who asks and connects gets through, also after the rules were loaded anew; what a stranger answers is closed."""
    log = tmp_path / "seen.log"
    (tmp_path / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions attempts:10\n")
    with world() as host:
        host.run("mount", "--bind", tmp_path / "resolv.conf", "/etc/resolv.conf")
        with naming(host, OLD):
            observe(host, log)
        use(firewall, monkeypatch, tmp_path)
        kind, names = FILES[firewall]
        made = ("--merge", "name", "--baseline", "--policy", "drop", "--file", tmp_path / "rules", log)
        host.pyegress([["rules", "--as", kind, *made]])
        texts = [(tmp_path / name).read_text() for name in names]
        if firewall != "nft":
            host.run("ipset", "restore", text=(tmp_path / "rules.ipset").read_text())
        FIREWALLS[firewall].load(host, texts)
        lying = dnsmasq(host.inside, STRANGER, "--no-resolv", f"--host-record={NAME},{LIE.address}")
        with served(host), naming(host, NEW), lying:
            with following(host) as said:
                host.python(ASK_STRANGER, STRANGER, NAME)
                host.python(ASK_AND_CONNECT, NAME)
                FIREWALLS[firewall].load(host, texts)
                host.python(ASK_AND_CONNECT, NAME)
                host.python(ASK_AND_CONNECT, NAME)
            assert host.send(WHO, ALL) == {*OLD, BARE, *NEW}
    # Sets of ipset outlive their rules.
    added = len(NEW) * (1 if firewall == "iptables-legacy" else 2)
    assert said[0].endswith(f" answers seen: {added} addresses added for their time, 0 failed"), said
    assert any(line.endswith(" DNS messages of servers that are not configured") for line in said[1:]), said

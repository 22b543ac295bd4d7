# SPDX-License-Identifier: MIT
"""The truth test for names: audit, rules by name, a policy that drops; then the name moves, and its rules with it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.names.resolving import dnsmasq, needs_resolver
from tests.truth import FIREWALLS, NET_4, NET_6, UNITS, Actor, Sent, World, needs_firewalls, world

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
FILES = {"nft": ("nftables", ["rules"]), "iptables-nft": ("restore", ["rules.v4", "rules.v6"])}
USED = [each for each in FILES if each == "nft" or shutil.which("ipset")]
"""ipset isn't everywhere."""


@contextmanager
def naming(host: World, sent: list[Sent]) -> Iterator[None]:
    """A resolver that knows where the name leads."""
    with dnsmasq(
        host.inside, RESOLVER, "--no-resolv", f"--host-record={NAME},{','.join(e.address for e in sent)}"
    ):
        yield


def observe(host: World, log: Path) -> None:
    """Somebody asks for the name, and goes where it leads; and elsewhere without a name."""
    cidrs = [word for cidr in (NET_4 + "0/24", NET_6 + "/48") for word in ("-I", f"ebpf:only-cidr:{cidr}")]
    given = ("-i", "ebpf", *cidrs, "-I", "ebpf:names:dns", "-I", "ebpf:quiet:true")
    with host.audit(*given, "-o", "logfmt", "-O", f"logfmt:file:{log}") as running:
        host.python(ASK, NAME)
        assert host.send(WHO, [*OLD, BARE]) == {*OLD, BARE}
    assert running.done.code == 0, running.done.err
    assert log.read_text().count(f" dest_names={NAME} ") == len(OLD)


def test_rules_follow_the_name(tmp_path: Path) -> None:
    """What was seen passes, nothing else; after a refresh also where the name leads now, and where it led before."""
    log = tmp_path / "seen.log"
    (tmp_path / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions attempts:10\n")
    with world() as host:
        host.run("mount", "--bind", tmp_path / "resolv.conf", "/etc/resolv.conf")
        with naming(host, OLD):
            observe(host, log)
            made = ("--merge", "name", "--baseline", "--policy", "drop", "--file", tmp_path / "rules", log)
            host.pyegress([["rules", "--as", FILES[each][0], *made] for each in USED])
        for firewall in USED:
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

# SPDX-License-Identifier: MIT
"""A real resolver, dnsmasq, in a network namespace of the test's own, and questions to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.resolver
import pytest

from tests.netns import own_netns

SERVER, STUB = "198.18.0.53", "127.0.0.53"
MANY = 60
"""Addresses: too many for a datagram without EDNS."""
RECORDS = (
    "--host-record=one.example,198.18.1.1",
    "--host-record=edge.cdn.example,198.18.2.1,2001:db8::21",
    "--cname=www.example,alias.example",
    "--cname=alias.example,edge.cdn.example",
    "--address=/none.example/",
    *(f"--host-record=many.example,198.18.3.{number + 1}" for number in range(MANY)),
)
PATIENCE_S = 60
Inside = Callable[..., list[str]]
"""Makes a command line that runs there."""
# Whatever it answers, it does.
_AWAIT = """
import sys
from contextlib import suppress
import dns.exception, dns.message, dns.query
asked = dns.message.make_query("one.example.", "A")
while True:
    with suppress(dns.exception.DNSException, OSError):
        dns.query.udp(asked, sys.argv[1], timeout=1)
        break
"""

_RESOLVED = f"""
# It answers only while there is a network.
ip link add one type veth peer name two
ip address add 192.0.2.1/24 dev one
ip link set one up
ip link set two up
# What it reads and writes is its own: nothing of the host's is touched.
mount -t tmpfs mine /run
mount -t tmpfs mine /etc/systemd
printf '[Resolve]\\nDNS={SERVER}\\nDNSSEC=no\\nLLMNR=no\\nMulticastDNS=no\\n' >/etc/systemd/resolved.conf
install -d -o 65534 /run/systemd/resolve
install -m 755 "$0" /run/resolved
rights=-all,+net_bind_service,+net_raw,+setpcap
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps $rights --ambient-caps $rights /run/resolved
"""
needs_resolver = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dnsmasq"), reason="needs root and dnsmasq"
)


def resolver(server: str = SERVER) -> dns.resolver.Resolver:
    """Asks that server alone."""
    found = dns.resolver.Resolver(configure=False)
    found.nameservers = [server]
    return found


def asked(name: str, kind: str = "A", server: str = SERVER) -> set[str]:
    """The addresses of a name; none where there is no such name."""
    try:
        return {record.to_text() for record in resolver(server).resolve(name, kind, lifetime=PATIENCE_S)}
    except dns.resolver.NXDOMAIN:
        return set()


@contextmanager
def resolving() -> Iterator[None]:
    """Run the body where SERVER knows RECORDS, for 0 seconds each, and STUB asks SERVER for what it is asked."""
    with (
        own_netns(),
        dnsmasq(_here, SERVER, "--no-resolv", *RECORDS),
        dnsmasq(_here, STUB, "--no-resolv", f"--server={SERVER}"),
    ):
        yield


def _here(*command: str | int | Path) -> list[str]:
    return [*map(str, command)]


@contextmanager
def resolving_by_systemd(program: Path) -> Iterator[Path]:
    """The same where systemd-resolved is at STUB; yields the socket that programs ask it by instead of DNS."""
    with (
        own_netns(),
        dnsmasq(_here, SERVER, "--no-resolv", *RECORDS),
        subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", _RESOLVED, program], stderr=subprocess.DEVNULL
        ) as process,
    ):
        try:
            subprocess.run([sys.executable, "-c", _AWAIT, STUB], check=True, timeout=PATIENCE_S)
            yield Path(f"/proc/{process.pid}/root/run/systemd/resolve/io.systemd.Resolve")
        finally:
            process.kill()


@contextmanager
def dnsmasq(inside: Inside, address: str, *options: str) -> Iterator[None]:
    """One that answers at that address, in the namespaces that `inside` leads to."""
    fixed = ("--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--pid-file=", "--user=root")
    where = ("--bind-interfaces", f"--listen-address={address}", "--cache-size=0")
    command = inside("dnsmasq", *fixed, *where, *options)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            subprocess.run(inside(sys.executable, "-c", _AWAIT, address), check=True, timeout=PATIENCE_S)
            yield
        finally:
            process.kill()

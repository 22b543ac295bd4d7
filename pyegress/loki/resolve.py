# SPDX-License-Identifier: MIT
"""The addresses of a host, asked for from ports that inputs know to be ours.

The C library's resolver would ask from ports that nobody knows, and close them before anybody looks whose they were.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import dns.exception
import dns.resolver

from pyegress.ownports import reserve

HOSTS = Path("/etc/hosts")
SOURCES = Path("/etc/nsswitch.conf")
_LINE = re.compile(r"^\s*hosts:(.*)$", re.MULTILINE)
_ACTION = re.compile(r"\[[^]]*\]")


def addresses(host: str, within_s: float) -> Sequence[str]:
    """Of an address itself, of a name what /etc/hosts or DNS has for it; socket.gaierror where there is nothing.

    What only another source of nsswitch.conf(5) knows, such as mDNS, is asked of the C library.
    """
    with suppress(ValueError):
        return [str(ip_address(host))]
    found = _in_hosts(host)
    if found:
        return found
    try:
        resolver = dns.resolver.Resolver()
        answers = resolver.resolve_name(host, source_port=reserve(socket.SOCK_DGRAM), lifetime=within_s)
        return list(answers.addresses())
    except (
        dns.resolver.NXDOMAIN,
        dns.resolver.NoAnswer,
        dns.resolver.NoResolverConfiguration,
        dns.name.LabelTooLong,
    ):
        error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    except dns.exception.DNSException:
        error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    if not _has_other_sources():
        raise error
    return list(
        dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM))
    )


def _in_hosts(host: str) -> list[str]:
    wanted, found = host.lower().rstrip("."), []
    for line in _text(HOSTS).splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if wanted in map(str.lower, names):
            with suppress(ValueError):
                found.append(str(ip_address(address)))
    return found


def _has_other_sources() -> bool:
    line = _LINE.search(_text(SOURCES))
    sources = _ACTION.sub(" ", line[1].partition("#")[0]).split() if line else []
    return not set(sources) <= {"files", "dns"}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

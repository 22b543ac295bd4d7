# SPDX-License-Identifier: MIT
"""The DNS and NTP servers that this host is configured to ask: what `baseline:true` allows by address.

Read from resolv.conf(5), systemd-resolved's list of the servers behind its stub, timesyncd.conf(5), chrony.conf(5) and
ntp.conf(5). Nothing is asked over the network: a server that is configured by name is told by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyegress.rules.addresses import Target, target_of
from pyegress.rules.model import IFNAME

_RESOLV = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
_TIMESYNCD = (
    "etc/systemd/timesyncd.conf",
    "etc/systemd/timesyncd.conf.d/*.conf",
    "run/systemd/timesyncd.conf.d/*.conf",
)
_NTP = (
    "etc/chrony/chrony.conf",
    "etc/chrony/conf.d/*.conf",
    "etc/chrony/sources.d/*.sources",
    "etc/chrony.conf",
    "run/chrony-dhcp/*.sources",
    "etc/ntp.conf",
    "etc/ntpsec/ntp.conf",
    "etc/openntpd/ntpd.conf",
)


class Servers(NamedTuple):
    """Those of a host, in the order of their files, each once."""

    dns: tuple[Target, ...]
    ntp: tuple[Target, ...]
    ntp_names: tuple[str, ...]
    """NTP servers that only a look-up would give an address."""


def configured_servers(root: Path = Path("/")) -> Servers:
    """What the files under a root name; those that can't be read name nothing."""
    dns = [words[1] for words in _lines(root, _RESOLV) if words[0] == "nameserver" and len(words) > 1]
    ntp = [
        words[1]
        for words in _lines(root, _NTP)
        if words[0] in ("server", "pool", "peer", "servers") and words[1:]
    ]
    for words in _lines(root, _TIMESYNCD):
        key, separator, value = " ".join(words).partition("=")
        if separator and key.strip() in ("NTP", "FallbackNTP"):
            ntp += value.split()
    return Servers(
        _targets(dns),
        _targets(ntp),
        tuple(dict.fromkeys(name for name in ntp if target_of(name) is None)),
    )


def _targets(texts: Iterable[str]) -> tuple[Target, ...]:
    found = (target_of(text) for text in texts)
    return tuple(dict.fromkeys(target for target in found if target is not None and _is_writable(target)))


def _is_writable(target: Target) -> bool:
    """A zone can be any text, and would stand in a rule as the interface."""
    return target.zone is None or IFNAME.fullmatch(target.zone) is not None


def _lines(root: Path, patterns: Iterable[str]) -> Iterator[list[str]]:
    """The words of each line that is no comment."""
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            for line in text.splitlines():
                words = line.split()
                if words and words[0][0] not in "#;!%":
                    yield words

# SPDX-License-Identifier: MIT
"""Which rules the observed connections come to, whatever firewall they are written for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import msgspec

from pyegress.losses import Losses
from pyegress.record import Connection, Process

MAX_RULES = 100_000

_PROTOCOL = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_IFNAME = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_.@-]*")
"""Names that mean themselves in every rule syntax and shell: no `+` or `*`, which are wildcards there."""


class Rule(msgspec.Struct, gc=False, kw_only=True):
    """One destination that was connected to."""

    family: Literal[4, 6]
    protocol: str
    dest_ip: str
    """Canonical, without a zone."""
    dest_port: int | None
    """None for protocols without ports."""
    ifname: str | None
    """Only for link-local destinations."""
    hook: str
    process: Process | None
    """The first known process that connected."""
    count: int = 0


class _Address(msgspec.Struct, frozen=True):
    family: Literal[4, 6]
    number: int
    text: str
    link_local: bool
    zone: str | None


_Key = tuple[int, str, int, int, str]


@lru_cache(65536)
def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    zone = None
    if isinstance(address, ipaddress.IPv6Address):
        zone = address.scope_id
        # Without its zone, and in the hex form whatever the Python.
        address = address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    if address.is_unspecified:
        return None
    return _Address(address.version, int(address), str(address), address.is_link_local, zone)


class RuleSet:
    """Gathers connections into rules, at most `limit` of them."""

    def __init__(self, owner: str, losses: Losses, limit: int = MAX_RULES) -> None:
        """`owner` is the output that the losses are named after."""
        self._owner = owner
        self._losses = losses
        self._limit = limit
        self._rules: dict[_Key, Rule] = {}

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, connections: Iterable[Connection]) -> None:
        """Count connections in; those that no rule can match are counted as skipped."""
        for connection in connections:
            if connection.direction == "out":
                why_not = self._add(connection)
                if why_not is not None:
                    self._losses.add("skipped", f"{self._owner}: {why_not}")

    def rules(self) -> list[Rule]:
        """All rules by family, protocol, address and port."""
        return [rule for _, rule in sorted(self._rules.items(), key=lambda item: item[0])]

    def _add(self, connection: Connection) -> str | None:
        """Why there is no rule for it, or None."""
        if connection.verdict not in (None, "accept"):
            return "not let through"
        address = _address(connection.dest_ip)
        if address is None:
            return "no address that packets are sent to"
        protocol, port = connection.protocol, connection.dest_port
        if protocol in ("tcp", "udp"):
            if not port or not 0 < port < 65536:
                return "no destination port"
        else:
            # Protocol 0 would mean every protocol.
            if not _PROTOCOL.fullmatch(protocol) or int(protocol) > 255:
                return "a protocol that no rule can name"
            port = None
        ifname = None
        if address.link_local:
            ifname = connection.ifname or address.zone
            if ifname is not None and not _IFNAME.fullmatch(ifname):
                return "an interface name that no rule can hold"
        key = (address.family, protocol.zfill(3), address.number, port or 0, ifname or "")
        rule = self._rules.get(key)
        if rule is None:
            if len(self._rules) >= self._limit:
                self._losses.add("lost", f"{self._owner}: rules beyond limit")
                return None
            rule = self._rules[key] = Rule(
                family=address.family,
                protocol=protocol,
                dest_ip=address.text,
                dest_port=port,
                ifname=ifname,
                hook=connection.hook,
                process=connection.process,
            )
        rule.count += connection.count
        if rule.process is None or (rule.process.pid is None and connection.process is not None):
            rule.process = connection.process
        return None

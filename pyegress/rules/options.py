# SPDX-License-Identifier: MIT
"""What the makers of rules have in common: for whom rules are, how wide, and what comes around them."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from pyegress.options import DurationNs
from pyegress.redact import RedactOptions
from pyegress.rules.addresses import BITS, Network

Scope = Literal["any", "user", "unit"]
Merge = Literal["exact", "ports", "prefix", "name"]
Policy = Literal["accept", "log", "reject", "drop"]

SECOND_NS, MINUTE_NS, DAY_NS = 1_000_000_000, 60_000_000_000, 86_400_000_000_000
"""ipset counts no more than 24 days."""


class MaxExtra(msgspec.Struct, frozen=True):
    """How wide `merge:prefix` may get: so many addresses that nobody used, or no network wider than these."""

    kind: ClassVar[str] = "number or /length"

    addresses: int | None = 256
    prefix4: int = 0
    prefix6: int = 0

    @classmethod
    def read(cls, text: str) -> MaxExtra:
        """`256`, `/24` (IPv6: as many addresses, /120) or `/24,/64`; ValueError says what is right."""
        if re.fullmatch(r"[0-9]{1,9}", text):
            return cls(int(text))
        match = re.fullmatch(r"/([0-9]{1,2})(?:,/([0-9]{1,3}))?", text)
        if match:
            prefix4 = int(match[1])
            prefix6 = int(match[2]) if match[2] else BITS[6] - BITS[4] + prefix4
            if prefix4 <= BITS[4] and prefix6 <= BITS[6]:
                return cls(None, prefix4, prefix6)
        raise ValueError("must be a number of addresses such as 256, or the widest network: /24, or /24,/64")

    def allows(self, network: Network, used: int) -> bool:
        """Whether a network of which so many addresses were used is not too wide."""
        if self.addresses is not None:
            return network.addresses - used <= self.addresses
        return network.prefix >= (self.prefix4 if network.family == 4 else self.prefix6)

    def __str__(self) -> str:
        return str(self.addresses) if self.addresses is not None else f"/{self.prefix4},/{self.prefix6}"


class RuleOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of every output that makes rules."""

    scope: Annotated[
        Scope,
        Meta(
            description="who may connect: any process; user: the socket's owner; unit: the systemd unit's cgroup; "
            "where that isn't known or can't be written the rule is for any process, and says so"
        ),
    ] = "any"
    merge: Annotated[
        Merge,
        Meta(
            description="exact: a rule per address and port; ports: per address with its ports; prefix: per network "
            "that max-extra allows; name: per name that was asked for, whose addresses are in a set that "
            "`pyegress names refresh` keeps filled; what has no name per address and port"
        ),
    ] = "exact"
    max_extra: Annotated[
        MaxExtra,
        Meta(
            description="with merge:prefix, how many addresses that nobody used a rule may allow; or its widest "
            "network, such as /24 (IPv6: as many addresses) or /24,/64"
        ),
    ] = MaxExtra()
    grace: Annotated[
        DurationNs,
        Meta(
            description="with merge:name, how long an address is allowed after its name last led to it",
            ge=MINUTE_NS,
            le=24 * DAY_NS,
        ),
    ] = DAY_NS
    baseline: Annotated[
        bool,
        Meta(
            description="first allow what every host needs: established connections, loopback, ICMPv6 neighbour "
            "discovery, DHCP, the configured DNS and NTP servers"
        ),
    ] = False
    policy: Annotated[
        Policy,
        Meta(description="what happens to the rest: accept, log (and accept), reject or drop (both log)"),
    ] = "log"
    verbose: Annotated[
        int,
        Meta(ge=0, le=2, description="1: process and user above each rule, 2: its command and parents too"),
    ] = 0
    file: Annotated[
        str, Meta(description="file to write (0640; replaced whole at exit and on SIGUSR1), - for stdout")
    ] = "-"

    @property
    def grace_s(self) -> int:
        """`grace` in whole seconds, as firewalls have it."""
        return self.grace // SECOND_NS

# SPDX-License-Identifier: MIT
"""A file for nft that allows what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pyegress import plugin
from pyegress.kernel import cgroup2_root
from pyegress.outputs.rulefile import IsThere, RuleOutput, cgroup_presence, everywhere
from pyegress.rules import nft, report
from pyegress.rules.options import RuleOptions
from pyegress.rules.shape import Plan

_NFT_CGROUPS = Path("/sys/fs/cgroup")


class NftablesOptions(RuleOptions, frozen=True, kw_only=True):
    """Options of the nftables output."""

    format: Annotated[
        Literal["nft", "json"],
        Meta(description="nft: a file for nft -f; json: the rules and what they rest on"),
    ] = "nft"
    table: Annotated[
        str,
        Meta(
            description="name of its inet table; begins with pyegress",
            pattern="^pyegress[a-z0-9_]*$",
            max_length=64,
        ),
    ] = nft.TABLE


class Nftables(RuleOutput):
    """Writes them when it is closed, and when it is asked to."""

    name: ClassVar[str] = "nftables"
    summary: ClassVar[str] = "a file for nft that allows what was seen, at exit"
    Options: ClassVar[type[plugin.Options]] = NftablesOptions

    def __init__(self, options: NftablesOptions) -> None:
        super().__init__(options)
        self._format = options.format
        self._table = options.table

    def presence(self) -> IsThere:
        return everywhere if self._format == "json" else _findable()

    def lines(self, made: Plan, ending: str) -> Iterable[str]:
        if self._format == "json":
            return report.lines(made, (4, 6))
        return nft.lines(made, self._table, self.presence())


def _findable() -> IsThere:
    """Tells whether nft finds a cgroup: it looks nowhere else, though a host with v1 has the v2 hierarchy elsewhere."""
    return cgroup_presence() if cgroup2_root() == _NFT_CGROUPS else lambda path: False

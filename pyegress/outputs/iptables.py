# SPDX-License-Identifier: MIT
"""Rules for iptables and ip6tables that allow what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pyegress import plugin
from pyegress.errors import UsageError
from pyegress.outputs.rulefile import IsThere, RuleOutput, cgroup_presence, everywhere
from pyegress.rules import ipset, iptables, report
from pyegress.rules.addresses import Family
from pyegress.rules.options import RuleOptions
from pyegress.rules.shape import Plan

_FAMILIES: dict[str, tuple[Family, ...]] = {"both": (4, 6), "4": (4,), "6": (6,)}
_ENDINGS: dict[str, Family] = {".v4": 4, ".v6": 6}


class IptablesOptions(RuleOptions, frozen=True, kw_only=True):
    """Options of the iptables output."""

    format: Annotated[
        Literal["commands", "restore", "json"],
        Meta(
            description="commands: a line for a shell per rule; restore: FILE.v4 and FILE.v6 for iptables-restore and "
            "ip6tables-restore, a chain of its own that pyegress apply loads; json: the rules and what they rest on"
        ),
    ] = "commands"
    family: Annotated[
        Literal["both", "4", "6"],
        Meta(description="only rules of IPv4 or IPv6; a restore file then is FILE itself"),
    ] = "both"
    evidence: Annotated[
        bool,
        Meta(
            description="with format:commands, first how much they rest on; in the other formats it always is there"
        ),
    ] = False


class Iptables(RuleOutput):
    """Writes them when it is closed, and when it is asked to."""

    name: ClassVar[str] = "iptables"
    summary: ClassVar[str] = "rules for iptables and ip6tables that allow what was seen, at exit"
    Options: ClassVar[type[plugin.Options]] = IptablesOptions

    def __init__(self, options: IptablesOptions) -> None:
        super().__init__(options)
        self._format = options.format
        self._evidence = options.evidence
        self._families = _FAMILIES[options.family]
        if options.format == "commands":
            if options.baseline:
                raise UsageError(
                    "iptables:baseline: needs a chain of its own; add -O iptables:format:restore"
                )
            if options.policy != RuleOptions().policy:
                raise UsageError(
                    f"iptables:policy:{options.policy}: needs a chain of its own; add -O iptables:format:restore"
                )
        elif options.format == "restore" and len(self._families) > 1:
            if options.file in ("", "-"):
                raise UsageError(
                    "iptables:format:restore: makes two files; give -O iptables:file:PATH for PATH.v4 and PATH.v6, "
                    "or -O iptables:family:4 or 6 for one"
                )
            self.endings = tuple(_ENDINGS)
        if options.merge == "name":
            if options.format == "commands":
                raise UsageError("iptables:merge:name: needs sets; add -O iptables:format:restore")
            if options.format == "restore":
                if options.file in ("", "-"):
                    raise UsageError(
                        "iptables:merge:name: makes a file for ipset beside; give -O iptables:file:PATH"
                    )
                # First, because rules are refused without their sets.
                self.endings = (ipset.ENDING, *self.endings)

    def presence(self) -> IsThere:
        return everywhere if self._format == "json" else cgroup_presence()

    def lines(self, made: Plan, ending: str) -> Iterable[str]:
        if self._format == "json":
            return report.lines(made, self._families)
        is_there = self.presence()
        if self._format == "restore":
            if ending == ipset.ENDING:
                return ipset.lines(made, self._families)
            return iptables.restore_lines(made, _ENDINGS.get(ending, self._families[0]), is_there)
        return iptables.command_lines(made, self._families, self._evidence, is_there)

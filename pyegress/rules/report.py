# SPDX-License-Identifier: MIT
r"""Rules and what they rest on as one JSON document, a rule a line.

Text is as in all outputs: a newline is the two characters `\n`, a byte that is not UTF-8 the six `\udcff`; JSON
escapes each backslash once more. What is not known is left out.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgspec

from pyegress.escape import display
from pyegress.record import Process
from pyegress.redact import mask
from pyegress.rules.addresses import Family
from pyegress.rules.model import Evidence, Program, Seen
from pyegress.rules.shape import Plan, Rule
from pyegress.times import rfc3339

BOTH: tuple[Family, ...] = (4, 6)


class ReportedCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened."""

    reason: str
    count: int


class ReportedEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much the rules rest on; times are RFC 3339, UTC."""

    since: str | None = None
    until: str | None = None
    last_new: str | None = None
    """When a destination was first seen that had not been seen before."""
    connections: int
    destinations: int
    losses: tuple[ReportedCount, ...]
    """What was lost: where there is any, rules may be missing."""
    unattributed: tuple[ReportedCount, ...]
    """Connections whose process is not known."""
    passing_by: int = 0
    """Records of AF_PACKET sockets, which no rule can be made for."""
    from_logs: bool = False
    """Read from logs, which don't tell what the audit lost."""


class ReportedProgram(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that used it; without any name it isn't known."""

    name: str | None = None
    exe: str | None = None
    user: str | None = None
    unit: str | None = None
    container: str | None = None
    parent: str | None = None
    count: int


class ReportedRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is allowed."""

    family: int
    protocol: str
    """tcp, udp, or the number as text."""
    network: str
    """`192.0.2.1`, or `192.0.2.0/24`."""
    ports: tuple[tuple[int, int], ...] = ()
    """First and last of each range."""
    ifname: str | None = None
    uid: int | None = None
    """Only that owner's sockets."""
    user: str | None = None
    """Name of the uid."""
    unit: str | None = None
    """Only that cgroup's sockets."""
    name: str | None = None
    """It is for that name, of which `network` is one address."""
    unseen: int = 0
    """Addresses that it allows though nobody used them."""
    widened: bool = False
    """It is for everybody because whose connections these were isn't known."""
    count: int
    """Connections."""
    first_seen: str | None = None
    last_seen: str | None = None
    programs: tuple[ReportedProgram, ...]
    more: int = 0
    """Connections of other programs."""
    names: tuple[str, ...] = ()
    """Host names that the address was known by."""
    hook: str
    """What saw the first of them."""
    cmdline: str | None = None
    """Of the first process; without what looks like a secret unless redact:false."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document."""

    evidence: ReportedEvidence
    scope: str
    merge: str
    width: int
    """Addresses that are allowed though nobody used them, those of each rule counted."""
    rules: tuple[ReportedRule, ...]


def lines(plan: Plan, families: Container[Family] = BOTH) -> Iterator[str]:
    """The lines of the document, with the rules of these families."""
    rules = [rule for rule in plan.rules if rule.network.family in families]
    head = Report(
        evidence=_evidence(plan.evidence),
        scope=plan.options.scope,
        merge=plan.options.merge,
        width=sum(rule.unseen for rule in rules),
        rules=(),
    )
    encoder = msgspec.json.Encoder()
    yield encoder.encode(head).decode().removesuffix("]}")
    for rule in rules[:-1]:
        yield encoder.encode(_rule(rule, plan.options.redact)).decode() + ","
    for rule in rules[-1:]:
        yield encoder.encode(_rule(rule, plan.options.redact)).decode()
    yield "]}"


def _evidence(evidence: Evidence) -> ReportedEvidence:
    return ReportedEvidence(
        since=_time(evidence.since_ns),
        until=_time(evidence.until_ns),
        last_new=_time(evidence.last_new_ns),
        connections=evidence.connections,
        destinations=evidence.destinations,
        losses=_counts(evidence.losses),
        unattributed=_counts(evidence.unattributed),
        passing_by=evidence.passing_by,
        from_logs=evidence.from_logs,
    )


def _rule(rule: Rule, redact: bool) -> ReportedRule:
    seen, process = rule.seen, rule.seen.process
    return ReportedRule(
        family=rule.network.family,
        protocol=rule.protocol,
        network=str(rule.network),
        ports=rule.ports,
        ifname=rule.ifname,
        uid=rule.who.uid,
        user=_shown(rule.user),
        unit=_shown(rule.who.unit),
        name=rule.name,
        unseen=rule.unseen,
        widened=rule.widened,
        count=seen.count,
        first_seen=_time(seen.first_ns),
        last_seen=_time(seen.last_ns),
        programs=tuple(_programs(seen)),
        more=seen.more,
        names=tuple(display(name) for name in seen.names),
        hook=display(seen.hook),
        cmdline=_command(process, redact),
    )


def _command(process: Process | None, redact: bool) -> str | None:
    if process is None or process.cmdline is None:
        return None
    return display(mask(process.cmdline) if redact else process.cmdline)


def _programs(seen: Seen) -> Iterator[ReportedProgram]:
    for program, count in seen.programs.items():
        known = dict(zip(Program._fields, map(_shown, program), strict=True))
        yield ReportedProgram(**known, count=count)


def _counts(counts: tuple[tuple[str, int], ...]) -> tuple[ReportedCount, ...]:
    return tuple(ReportedCount(reason=display(reason), count=count) for reason, count in counts)


def _shown(text: str | None) -> str | None:
    return None if text is None else display(text)


def _time(ns: int) -> str | None:
    return rfc3339(ns) if ns else None

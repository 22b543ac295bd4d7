# SPDX-License-Identifier: MIT
"""What a file of rules tells people in its comments: plain sentences of one line, inert when pasted into a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pyegress.escape import display
from pyegress.record import Process
from pyegress.redact import mask
from pyegress.rules.addresses import Network
from pyegress.rules.model import Evidence, Program
from pyegress.rules.quote import quoted, word
from pyegress.rules.shape import Plan, Rule
from pyegress.times import duration_text, rfc3339

# iptables-restore reads 10239 bytes at a time and takes the rest of a longer comment for the next line;
# a terminal takes 4095. Quoting at most doubles this.
_COMMAND_BYTES = 1024
_NAME_BYTES = 255
_PORTS_UNCOMPARED = ("33", "132", "136")
"""DCCP, SCTP and UDP-Lite have ports."""
_UNITS = 5
"""So many units that are not there, or addresses with several names, are told."""


def name_of(process: Process | None) -> str | None:
    """What a process is called."""
    return None if process is None else process.name or process.comm


def upstream_lines(rule: Rule, verbose: int, redact: bool = True) -> Iterator[str]:
    """egress-auditor's sentences on the first process that was seen."""
    hook, process = rule.seen.hook, rule.seen.process
    if verbose < 1:
        return
    sentence = f"[{hook}] Line generated for {_who(process)}"
    if verbose > 1 and process is not None and process.cmdline:
        sentence += (
            f" with command {quoted(mask(process.cmdline) if redact else process.cmdline, _COMMAND_BYTES)}"
        )
    yield sentence
    parent = process.parent if verbose > 1 and process is not None else None
    for role in ("Parent", "Grandparent"):
        if parent is not None:
            yield f"[{hook}] {role} of this process was {_who(parent)}"
            parent = parent.parent


def caution_lines(rule: Rule) -> Iterator[str]:
    """Where a rule is wider than what was seen."""
    hook = rule.seen.hook
    if rule.ifname is None and rule.network.is_link_local and rule.network.family == 6:
        yield f"[{hook}] Its interface is not known: this link-local rule holds on every interface"
    if rule.protocol in _PORTS_UNCOMPARED:
        yield f"[{hook}] Its port is not compared: this rule holds for every port of protocol {rule.protocol}"
    if rule.widened:
        yield f"[{hook}] Whose it was is not known or cannot be written: this rule holds for every process"
    if rule.unseen:
        yield f"[{hook}] {number(rule.unseen, 'address', 'addresses')} allowed that nobody used, {rule.used} used"


def told_lines(rule: Rule, plan: Plan) -> Iterator[str]:
    """All that stands above a rule."""
    yield from caution_lines(rule)
    yield from provenance_lines(rule, plan.options.verbose, plan.options.redact)


def left_out(rules: Iterable[Rule], is_there: Callable[[str], bool]) -> Iterator[str]:
    """That rules are comments because their units' cgroups are not there, and what to do."""
    units = {rule.who.unit for rule in rules}
    absent = sorted(unit for unit in units if unit is not None and not is_there(unit))
    if not absent:
        return
    named = [word(unit.rpartition("/")[2], _NAME_BYTES) for unit in absent[:_UNITS]]
    if len(absent) > _UNITS:
        named.append(f"and {len(absent) - _UNITS} more")
    yield (
        f"rules for {number(len(absent), 'unit')} left out, whose cgroup is not on this host ({', '.join(named)}): "
        "nothing could be loaded with them, so they are comments; make the rules where and while the units run"
    )


def other_names(name: str, address: Network, plan: Plan) -> Iterator[str]:
    """Which names a rule for one lets through too, at one address."""
    others = [word(each, _NAME_BYTES) for each in plan.shared.get(address, ()) if each != name]
    if others:
        yield f"lets through too what is here by other names or aliases: {', '.join(others)}"


def name_cautions(plan: Plan) -> Iterator[str]:
    """That rules by name let other names through, and which; or that there are none."""
    if plan.options.merge == "name" and all(rule.name is None for rule in plan.rules):
        yield "merge:name: no connection has a name, so all rules are by address; observe with names:dns"
    found = plan.shared
    if not found:
        return
    named = [
        f"{address} ({', '.join(word(name, _NAME_BYTES) for name in names)})"
        for address, names in list(found.items())[:_UNITS]
    ]
    if len(found) > _UNITS:
        named.append(f"and {len(found) - _UNITS} more")
    yield (
        f"{number(len(found), 'address has', 'addresses have')} several names, or aliases; a rule for one of them "
        f"lets the others through: {', '.join(named)}"
    )


def baseline_cautions(plan: Plan) -> Iterator[str]:
    """What goes wrong without a baseline."""
    if plan.servers is not None:
        return
    if plan.policy in ("reject", "drop"):
        yield (
            "CAUTION: this cuts established connections and the answers of servers, a ssh session too: "
            "make it with baseline:true"
        )
    if plan.options.scope != "any" and plan.policy != "accept":
        yield (
            "Packets that are sent when no process holds the socket any more, such as the last of a connection, have "
            "no owner and match no rule here: baseline:true lets them pass"
        )


def provenance_lines(rule: Rule, verbose: int, redact: bool = True) -> Iterator[str]:
    """What a rule comes from."""
    if verbose < 1:
        return
    seen = rule.seen
    yield f"{number(seen.count, 'connection')}{_span(seen.first_ns, seen.last_ns)}"
    for program, count in seen.programs.items():
        yield f"by {_program(program)}: {count}"
    if seen.more:
        yield f"by other programs: {seen.more}"
    if seen.names:
        yield "names: " + ", ".join(word(name, _NAME_BYTES) for name in seen.names)
    if verbose > 1:
        yield from upstream_lines(rule, verbose, redact)


def evidence_lines(plan: Plan) -> Iterator[str]:
    """How much the rules rest on, and what they cost."""
    evidence = plan.evidence
    yield f"observed: {_observed(evidence)}"
    yield (
        f"seen: {number(evidence.connections, 'record')}, {number(evidence.destinations, 'distinct destination')}"
        f"{_last_new(evidence)}"
    )
    if plan.options.merge == "prefix":
        yield f"width: {number(plan.unseen, 'address', 'addresses')} allowed that nobody used"
    named = {rule.name for rule in plan.rules if rule.name is not None}
    if named:
        yield (
            f"names: {len(named)}, whose addresses are allowed for {duration_text(plan.options.grace)} from when the "
            "name last led there: have `pyegress names refresh` run by a timer (pyegress-names.timer)"
        )
        yield from (f"CAUTION: {line}" for line in name_cautions(plan))
    if plan.options.merge == "name":
        bare = sum(rule.name is None for rule in plan.rules)
        yield f"by address: {number(bare, 'rule')}, where no name was seen that is one of a host"
    widened = sum(rule.widened for rule in plan.rules)
    if widened:
        what = "user" if plan.options.scope == "user" else "unit"
        yield (
            f"scope: {number(widened, 'rule')} for every process, because the {what} is not known or cannot be written"
        )
    yield from passing_by_lines(evidence)
    for reason, count in evidence.unattributed:
        yield f"process not known: {number(count, 'record')} ({display(reason)})"
    for reason, count in evidence.losses:
        yield f"lost: {count} ({display(reason)})"
    if evidence.losses:
        yield "INCOMPLETE: some connections were not recorded, so rules for them may be missing"
    elif evidence.from_logs:
        yield "A log does not tell what the audit lost: what it said at its end does"


def passing_by_lines(evidence: Evidence) -> Iterator[str]:
    """What no rule here can stop or let through."""
    if evidence.passing_by:
        yield (
            f"not covered: {number(evidence.passing_by, 'record')} of AF_PACKET sockets, whose packets pass no rule "
            "for OUTPUT, these neither"
        )


def number(count: int, one: str, many: str = "") -> str:
    """`1 rule`, `2 rules`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _who(process: Process | None) -> str:
    name = name_of(process)
    who = word(name) if name else "an unknown process"
    return who if process is None or process.user is None else f"{who} running as {word(process.user)}"


def _program(program: Program) -> str:
    text = word(program.name, _NAME_BYTES) if program.name else "an unknown process"
    if program.exe:
        text += f" {quoted(program.exe, _NAME_BYTES)}"
    if program.user:
        text += f" running as {word(program.user, _NAME_BYTES)}"
    if program.unit:
        text += f" in {word(program.unit, _NAME_BYTES)}"
    if program.container:
        text += f" of container {word(program.container, _NAME_BYTES)}"
    if program.parent:
        text += f" started by {word(program.parent, _NAME_BYTES)}"
    return text


def _span(first_ns: int, last_ns: int) -> str:
    if not first_ns:
        return ""
    if first_ns == last_ns:
        return f" at {rfc3339(first_ns)}"
    return f" from {rfc3339(first_ns)} to {rfc3339(last_ns)}"


def _observed(evidence: Evidence) -> str:
    if not evidence.since_ns:
        return "at a time that is not known"
    span = duration_text(evidence.until_ns - evidence.since_ns)
    return f"{span}{_span(evidence.since_ns, evidence.until_ns)}"


def _last_new(evidence: Evidence) -> str:
    if not evidence.last_new_ns:
        return ""
    before = max(0, evidence.until_ns - evidence.last_new_ns)
    return f", the last new one {duration_text(before)} before the end"

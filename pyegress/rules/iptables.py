# SPDX-License-Identifier: MIT
"""Rules in the words of iptables: commands for a shell, or a file for iptables-restore.

A restore file belongs to one family and is added with --noflush. It makes the chain PYEGRESS anew and appends a jump
to it; nothing else of the host's is touched. There is no idempotent jump: each line of such a file either adds or
removes one, or fails, and with it the whole file. So the head tells how to load again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import structs

from pyegress.escape import display
from pyegress.rules import wording
from pyegress.rules.addresses import Family, Target
from pyegress.rules.baseline import Servers
from pyegress.rules.bynames import name_rules, without_name
from pyegress.rules.hostnames import IPSET_PREFIX, set_name
from pyegress.rules.options import Policy
from pyegress.rules.quote import COMMENT_BYTES, comment, exact, word
from pyegress.rules.shape import Plan, Rule

CHAIN = "PYEGRESS"
LOG_PREFIX = "pyegress: "
PROGRAM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
_MULTIPORT = 15
"""Ports that xt_multiport compares; a range takes the room of two."""
_ICMP6 = {
    133: "router solicitation",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    131: "MLD report",
    132: "MLD done",
    143: "MLDv2 report",
}
_REFUSAL: dict[Family, str] = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}
_STOPS: tuple[Policy, ...] = ("reject", "drop")

IsThere = Callable[[str], bool]
"""Whether a cgroup of that path exists: the kernel refuses rules for others, and all that is loaded with them."""


def command_lines(plan: Plan, families: Iterable[Family], evidence: bool, is_there: IsThere) -> Iterator[str]:
    """Commands as egress-auditor writes them."""
    if evidence:
        yield from _comments(wording.evidence_lines(plan))
    else:
        for reason, count in plan.evidence.losses:
            yield f"# incomplete: {count} connections were lost ({display(reason)})"
        yield from _comments(wording.passing_by_lines(plan.evidence))
    for rule in plan.rules:
        if rule.network.family in families:
            yield from _comments(wording.caution_lines(rule))
            yield from _comments(wording.upstream_lines(rule, plan.options.verbose, plan.options.redact))
            yield from rule_lines(rule, f"{PROGRAM[rule.network.family]} -I OUTPUT", is_there)


def restore_lines(plan: Plan, family: Family, is_there: IsThere) -> Iterator[str]:
    """A file for iptables-restore or ip6tables-restore."""
    yield from _comments(_head(plan, family, is_there))
    yield "*filter"
    yield f":{CHAIN} - [0:0]"
    if plan.servers is not None:
        yield from baseline_lines(plan.servers, family)
    for by_name in name_rules(rule for rule in plan.rules if rule.network.family == family):
        told = (line for rule in by_name.rules for line in wording.told_lines(rule, plan))
        yield from _comments(dict.fromkeys(told))
        yield from rule_lines(structs.replace(by_name.rules[0], ports=by_name.ports), f"-A {CHAIN}", is_there)
    for rule in without_name(plan.rules):
        if rule.network.family == family:
            yield from _comments(wording.told_lines(rule, plan))
            yield from rule_lines(rule, f"-A {CHAIN}", is_there)
    yield from policy_lines(plan.policy, family)
    yield f"-A OUTPUT -j {CHAIN}"
    yield "COMMIT"


def rule_lines(rule: Rule, start: str, is_there: IsThere) -> Iterator[str]:
    """What allows it, in several lines where one can't hold all ports."""
    uid, unit = rule.who
    if unit is not None and not is_there(unit):
        yield f"# Left out: the cgroup of its unit is not there, so that nothing could be loaded with it: {exact(unit)}"
        start = f"# {start}"
    interface = "" if rule.ifname is None else f" -o {rule.ifname}"
    who = "" if uid is None else f" -m owner --uid-owner {uid}"
    # Line lengths stay below 1024 with a path of 255 characters that are all written as two.
    limit = COMMENT_BYTES
    if unit is not None:
        who, limit = f" -m cgroup --path {exact(unit)}", COMMENT_BYTES // 2
    to, told = f"-d {rule.network}", wording.name_of(rule.seen.process)
    if rule.name is not None:
        # The comment tells whoever refreshes the set which name to ask for.
        made, told = set_name(IPSET_PREFIX, rule.name, rule.network.family), rule.name
        to = f"-m set --match-set {made} dst"
    text = comment(told, limit)
    for ports in _port_matches(rule):
        yield (
            f"{start}{interface} {to} -p {rule.protocol}{ports}{who} -j ACCEPT -m comment --comment {text}"
        )


def baseline_lines(servers: Servers, family: Family) -> Iterator[str]:
    """What every host needs."""
    yield _allow("-m conntrack --ctstate ESTABLISHED,RELATED", "known connections")
    yield _allow("-o lo", "loopback")
    if family == 6:
        for number, name in _ICMP6.items():
            yield _allow(f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}", name)
    client, server = (68, 67) if family == 4 else (546, 547)
    yield _allow(f"-p udp -m udp --sport {client} --dport {server}", "DHCP")
    for target in servers.dns:
        if target.network.family == family:
            for protocol in ("udp", "tcp"):
                yield _allow(f"{_to(target)} -p {protocol} -m {protocol} --dport 53", "DNS")
    for target in servers.ntp:
        if target.network.family == family:
            yield _allow(f"{_to(target)} -p udp -m udp --dport 123", "NTP")
    for name in servers.ntp_names:
        yield f"# The NTP server {word(name)} is configured by name: no baseline rule covers it"


def policy_lines(policy: Policy, family: Family) -> Iterator[str]:
    """What happens to the rest."""
    if policy == "accept":
        yield f"-A {CHAIN} -j RETURN"
        return
    yield f'-A {CHAIN} -m limit --limit 10/second --limit-burst 20 -j LOG --log-prefix "{LOG_PREFIX}"'
    if policy == "reject":
        yield f"-A {CHAIN} -p tcp -j REJECT --reject-with tcp-reset"
        yield f"-A {CHAIN} -j REJECT --reject-with {_REFUSAL[family]}"
    elif policy == "drop":
        yield f"-A {CHAIN} -j DROP"


def _head(plan: Plan, family: Family, is_there: IsThere) -> Iterator[str]:
    program = PROGRAM[family]
    stops = plan.policy in _STOPS
    yield f"pyegress: what this host may connect to, for {program}-restore; all of it is in the chain {CHAIN}"
    yield f"load: pyegress apply FILE, or {program}-restore --noflush FILE"
    again = "" if stops or plan.policy == "accept" else ", which logs everything twice"
    yield f"load it again: {program} -D OUTPUT -j {CHAIN} first, or there is a second jump{again}; apply sees to that"
    yield (
        f"remove: pyegress apply --remove, or {program} -D OUTPUT -j {CHAIN} and {program} -F {CHAIN} and "
        f"{program} -X {CHAIN}"
    )
    yield "What OUTPUT held before decides first."
    if any(rule.name is not None and rule.network.family == family for rule in plan.rules):
        yield "CAUTION: rules by name need their sets, or nothing can be loaded: first ipset restore < FILE.ipset"
    scope = plan.options.scope
    yield from wording.baseline_cautions(plan)
    if scope == "unit":
        yield (
            "A rule for a unit holds for the cgroup that is there when it is loaded: "
            "load this file again when a unit was restarted, and load it at boot when the units run"
        )
    mine = (rule for rule in plan.rules if rule.network.family == family)
    yield from (f"CAUTION: {line}" for line in wording.left_out(mine, is_there))
    yield from wording.evidence_lines(plan)


def _port_matches(rule: Rule) -> list[str]:
    if not rule.ports:
        return [""]
    parts: list[list[str]] = []
    room = 0
    for first, last in rule.ports:
        needed = 1 if first == last else 2
        if needed > room:
            parts.append([])
            room = _MULTIPORT
        room -= needed
        parts[-1].append(str(first) if first == last else f"{first}:{last}")
    return [
        f" -m {rule.protocol} --dport {part[0]}"
        if len(part) == 1
        else f" -m multiport --dports {','.join(part)}"
        for part in parts
    ]


def _to(target: Target) -> str:
    """Which destination; its zone is an interface, and only link-local addresses have one."""
    zone = target.zone if target.network.is_link_local else None
    return f"-d {target.network}" if zone is None else f"-o {word(zone)} -d {target.network}"


def _allow(matches: str, what: str) -> str:
    return f'-A {CHAIN} {matches} -j ACCEPT -m comment --comment "baseline: {what}"'


def _comments(lines: Iterable[str]) -> Iterator[str]:
    return (f"# {line}" for line in lines)

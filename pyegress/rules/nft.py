# SPDX-License-Identifier: MIT
r"""Rules as a whole file for `nft -f`: a table of its own, made anew in one transaction, with what is allowed in sets.

nft's strings end at the next double quote, whatever stands before it (measured with 1.0.6), and a shell that the file
is pasted into would read `$`, backtick, `!` and a backslash before the quote. So those are written as `display` writes
what can't be shown, and a backslash as two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count

from pyegress.escape import escaped
from pyegress.rules import wording
from pyegress.rules.addresses import BITS, Family, Network, Target
from pyegress.rules.baseline import Servers
from pyegress.rules.bynames import NameRule, name_rules, name_sets, without_name
from pyegress.rules.hostnames import NFT_PREFIX, set_name
from pyegress.rules.model import PORTED
from pyegress.rules.options import Policy
from pyegress.rules.quote import word
from pyegress.rules.shape import ANYBODY, Plan, Ports, Rule, Who

TABLE = "pyegress"
COMMENT_BYTES = 128
_COMMENTS = 1024
"""Kept, as a program has many destinations."""
LOG_PREFIX = "pyegress: "
_FAMILIES: tuple[Family, ...] = (4, 6)
_ND = "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld2-listener-report"
_SPELLED = {'"': "\\u0022", "$": "\\u0024", "`": "\\u0060", "!": "\\u0021", "\\": "\\\\"}
_NAME_CHARS = 60
_UNKNOWN = "unknown process"
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_FIELDS = {4: "ip daddr", 6: "ip6 daddr"}
_NUMBERS = {4: "ip protocol", 6: "meta l4proto"}
"""Where the protocol's number stands: behind IPv6's extension headers only `meta` finds it."""

IsThere = Callable[[str], bool]
"""Whether a cgroup of that path exists: nft refuses a file with any other."""


@lru_cache(_COMMENTS)
def comment(text: str) -> str:
    """A string of at most 128 bytes, cut between characters."""
    kept, room = [], COMMENT_BYTES
    for char in text[:COMMENT_BYTES]:
        token = _SPELLED.get(char) or escaped(char)
        room -= len(token.encode())
        if room < 0:
            break
        kept.append(token)
    return '"' + "".join(kept) + '"'


def lines(plan: Plan, table: str, is_there: IsThere) -> Iterator[str]:
    """The file."""
    yield from (f"# {line}" for line in _head(plan, table, is_there))
    # Added first, so that there always is one to delete.
    yield f"add table inet {table}"
    yield f"delete table inet {table}"
    yield f"table inet {table} {{"
    units = _named(sorted({rule.who.unit for rule in plan.rules if rule.who.unit is not None}))
    for unit, name in units.items():
        yield from _unit_set(unit, name, table, is_there)
    for (name, family), addresses in name_sets(plan.rules).items():
        yield from _name_set(name, family, addresses, plan)
    statements = [_name_rule(each, _who_match(each.who, units)) for each in name_rules(plan.rules)]
    for who, mine in _by_who(plan).items():
        match = _who_match(who, units)
        by_set = _by_set(mine)
        for family in _FAMILIES:
            for protocol in (*PORTED, "other"):
                sets = by_set.get((family, protocol))
                if sets:
                    name = f"{_who_name(who, units)}_{protocol}{family}"
                    yield from _set(name, sets, plan)
                    behind = f"{protocol} dport" if protocol in PORTED else _NUMBERS[family]
                    statements.append(f"{match}{_FIELDS[family]} . {behind} @{name} counter accept")
        for rule in mine:
            if rule.ifname is not None:
                statements += [f"# {line}" for line in wording.told_lines(rule, plan)]
                statements.append(_link_local(rule, match))
    yield "\tchain output {"
    yield "\t\ttype filter hook output priority filter; policy accept;"
    if plan.servers is not None:
        yield from (f"\t\t{line}" for line in _baseline(plan.servers))
    yield from (f"\t\t{line}" for line in statements)
    yield from (f"\t\t{line}" for line in _policy(plan.policy))
    yield "\t}"
    yield "}"


def _head(plan: Plan, table: str, is_there: IsThere) -> Iterator[str]:
    yield f"pyegress: what this host may connect to, for nft; all of it is in the table inet {table}"
    yield "load, also again: pyegress apply FILE, or nft -f FILE"
    yield f"remove: pyegress apply --remove, or nft delete table inet {table}"
    yield "What it accepts other tables may still drop; what it drops is dropped."
    scope = plan.options.scope
    yield from wording.baseline_cautions(plan)
    if scope == "unit":
        yield (
            "A unit's cgroup gets a new number when the unit starts: systemd 255 and later put it into the unit's set "
            "by the drop-in that stands there; with older ones load this file again"
        )
        yield (
            "nft refuses a file with a cgroup that is not there, as at boot: let the drop-ins fill the sets then, and "
            "put a # before each elements line of a set cgroup_..."
        )
    yield from (f"CAUTION: {line}" for line in wording.left_out(plan.rules, is_there))
    yield from wording.evidence_lines(plan)


def _by_who(plan: Plan) -> dict[Who, list[Rule]]:
    """The rules for all come last, so that counters tell what the narrower ones didn't cover."""
    found: dict[Who, list[Rule]] = {}
    for rule in without_name(plan.rules):
        found.setdefault(rule.who, []).append(rule)
    order = sorted(found, key=lambda who: (who == ANYBODY, who.uid or 0, who.unit or ""))
    return {who: found[who] for who in order}


def _named(texts: Iterable[str]) -> dict[str, str]:
    """A name that nft takes for each text, and that people recognise."""
    names: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        last = text.rpartition("/")[2]
        wanted = re.sub(r"[^A-Za-z0-9]+", "_", last)[:_NAME_CHARS].strip("_")
        taken = set(names.values())
        names[text] = next(
            name
            for number in count(1)
            if (name := wanted if number == 1 else f"{wanted}_{number}") not in taken
        )
    return names


def _who_name(who: Who, units: dict[str, str]) -> str:
    if who.unit is not None:
        return f"unit_{units[who.unit]}"
    return "any" if who.uid is None else f"uid_{who.uid}"


def _who_match(who: Who, units: dict[str, str]) -> str:
    if who.unit is not None:
        return f"socket cgroupv2 level {who.unit.count('/') + 1} @cgroup_{units[who.unit]} "
    return "" if who.uid is None else f"meta skuid {who.uid} "


def _unit_set(unit: str, name: str, table: str, is_there: IsThere) -> Iterator[str]:
    yield f"\t# {unit.rpartition('/')[2]}: [Service] NFTSet=cgroup:inet:{table}:cgroup_{name}"
    yield f"\tset cgroup_{name} {{"
    yield "\t\ttype cgroupsv2"
    if is_there(unit):
        yield f'\t\telements = {{ "{unit}" }}'
    else:
        yield "\t\t# nft finds no such cgroup and would refuse the whole file; the drop-in fills the set"
        yield f'\t\t# elements = {{ "{unit}" }}'
    yield "\t}"


def _by_set(rules: list[Rule]) -> dict[tuple[Family, str], list[Rule]]:
    """Those that a set of a family and protocol can hold."""
    found: dict[tuple[Family, str], list[Rule]] = {}
    for rule in rules:
        if rule.ifname is None:
            protocol = rule.protocol if rule.protocol in PORTED else "other"
            found.setdefault((rule.network.family, protocol), []).append(rule)
    return found


def _set(name: str, rules: list[Rule], plan: Plan) -> Iterator[str]:
    family = rules[0].network.family
    kind = "inet_service" if rules[0].protocol in PORTED else "inet_proto"
    yield f"\tset {name} {{"
    yield f"\t\ttype {_TYPES[family]} . {kind}"
    if any(_is_wide(rule) for rule in rules):
        yield "\t\tflags interval"
    yield "\t\tcounter"
    yield "\t\telements = {"
    for rule in rules:
        yield from (f"\t\t\t# {line}" for line in wording.told_lines(rule, plan))
        said = comment(wording.name_of(rule.seen.process) or _UNKNOWN)
        ports = [_range(*each) for each in rule.ports] or [rule.protocol]
        yield "\t\t\t" + " ".join(f"{rule.network} . {port} comment {said}," for port in ports)
    yield "\t\t}"
    yield "\t}"


def _name_set(name: str, family: Family, addresses: dict[Network, list[Rule]], plan: Plan) -> Iterator[str]:
    yield f"\t# {name}"
    yield f"\tset {set_name(NFT_PREFIX, name, family)} {{"
    yield f"\t\ttype {_TYPES[family]}"
    yield "\t\tflags timeout"
    yield f"\t\ttimeout {plan.options.grace_s}s"
    yield "\t\telements = {"
    for address, rules in addresses.items():
        told = dict.fromkeys(line for rule in rules for line in wording.told_lines(rule, plan))
        yield from (f"\t\t\t# {line}" for line in (*told, *wording.other_names(name, address, plan)))
        yield f"\t\t\t{address} comment {comment(wording.name_of(rules[0].seen.process) or _UNKNOWN)},"
    yield "\t\t}"
    yield "\t}"


def _name_rule(rule: NameRule, who: str) -> str:
    """The comment tells whoever refreshes the set which name to ask for."""
    to = f"{_FIELDS[rule.family]} @{set_name(NFT_PREFIX, rule.name, rule.family)}"
    return f"{who}{to} {_behind(rule.protocol, rule.ports)} counter accept comment {comment(rule.name)}"


def _is_wide(rule: Rule) -> bool:
    return rule.network.prefix < BITS[rule.network.family] or any(first != last for first, last in rule.ports)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _link_local(rule: Rule, who: str) -> str:
    behind = _behind(rule.protocol, rule.ports)
    said = comment(wording.name_of(rule.seen.process) or _UNKNOWN)
    field = _FIELDS[rule.network.family]
    return f'{who}oifname "{rule.ifname}" {field} {rule.network} {behind} counter accept comment {said}'


def _behind(protocol: str, ports: Ports) -> str:
    """What is asked for beside the address."""
    listed = ", ".join(_range(*each) for each in ports)
    return f"{protocol} dport {{ {listed} }}" if listed else f"meta l4proto {protocol}"


def _baseline(servers: Servers) -> Iterator[str]:
    yield _allow("ct state established,related", "known connections")
    yield _allow('oifname "lo"', "loopback")
    yield _allow(f"icmpv6 type {{ {_ND} }}", "neighbour discovery")
    yield _allow("meta nfproto ipv4 udp sport 68 udp dport 67", "DHCP")
    yield _allow("meta nfproto ipv6 udp sport 546 udp dport 547", "DHCP")
    for target in servers.dns:
        yield _allow(f"{_to(target)} meta l4proto {{ tcp, udp }} th dport 53", "DNS")
    for target in servers.ntp:
        yield _allow(f"{_to(target)} udp dport 123", "NTP")
    for name in servers.ntp_names:
        yield f"# The NTP server {word(name)} is configured by name: no baseline rule covers it"


def _to(target: Target) -> str:
    """Which destination; its zone is an interface, and only link-local addresses have one."""
    zone = target.zone if target.network.is_link_local else None
    to = f"{_FIELDS[target.network.family]} {target.network}"
    return to if zone is None else f'oifname "{zone}" {to}'


def _allow(matches: str, what: str) -> str:
    return f'{matches} counter accept comment "baseline: {what}"'


def _policy(policy: Policy) -> Iterator[str]:
    """What happens to the rest."""
    if policy != "accept":
        yield f'limit rate 10/second burst 20 packets log prefix "{LOG_PREFIX}"'
    if policy == "reject":
        yield "meta l4proto tcp counter reject with tcp reset"
        yield "counter reject with icmpx admin-prohibited"
    elif policy == "drop":
        yield "counter drop"

# SPDX-License-Identifier: MIT
"""Rules as the kernel has them, from `nft -j -n list ruleset` (libnftables-json(5)), with or without `-n`.

Without it states, protocols and types of ICMP are names, which are known here too; names of ports (`-S`) and users
(`-u`) aren't. Each base chain on the way out is a firewall of its own, because a packet must pass all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from pyegress.errors import InputError
from pyegress.rules.addresses import Network
from pyegress.rules.firewall import EMPTY_SET, Entry, Firewall, Range, Verdict
from pyegress.rules.hostnames import is_set_name
from pyegress.rules.nft_fields import ICMP_TYPES, PROTOCOLS, Way, both, networks, states

DEPTH = 8
"""Chains are followed so deep into each other."""
_FAMILIES: dict[str, tuple[Any, ...]] = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}
_FAMILY_NUMBERS = {"ipv4": 4, "ipv6": 6, 2: 4, 10: 6}
_IDLE = frozenset(("counter", "log", "mangle", "notrack", "last", "continue", "ct helper", "comment"))
_CONDITIONS = frozenset(("limit", "quota", "ct count", "set"))
"""Whether they match depends on what came before."""
_REWRITES = frozenset(("dnat", "snat", "masquerade", "redirect"))
"""They let the packet through, but to another place."""
_FIELDS = frozenset(Entry.__struct_fields__) - {"line", "text", "verdict", "unknown", "comment", "hits"}

Json = Any


def read_json(text: str) -> list[Firewall]:
    """Every chain that packets pass on their way out, in their order; raises InputError where it is no such list."""
    try:
        listed = json.loads(text)["nftables"]
        return _Ruleset(listed).firewalls()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"nft: its list of rules is not understood ({type(error).__name__})") from error


class _NotUnderstood(Exception):
    pass


class _Rule:
    """What a rule asks for, and what it does then."""

    def __init__(self) -> None:
        self.ways: list[Way] = [{}]
        self.unknown: list[str] = []
        self.verdict: Verdict = "continue"
        self.hits: int | None = None
        self.jumps: tuple[str, str] | None = None
        """`jump`, `goto` or `return`, and where to."""

    @property
    def is_for_all(self) -> bool:
        return self.ways == [{}] and not self.unknown


class _Ruleset:
    def __init__(self, listed: Json) -> None:
        self._sets: dict[tuple[str, str, str], Json] = {}
        self._rules: dict[tuple[str, str, str], list[Json]] = {}
        self._chains: list[Json] = []
        dormant = set()
        for each in listed:
            for kind, value in each.items():
                if kind == "table" and "dormant" in value.get("flags", ()):
                    dormant.add((value["family"], value["name"]))
                elif kind in ("set", "map"):
                    self._sets[value["family"], value["table"], value["name"]] = value
                elif kind == "rule":
                    chain = value["family"], value["table"], value["chain"]
                    self._rules.setdefault(chain, []).append(value)
                elif kind == "chain" and value.get("hook") == "output" and value["family"] in _FAMILIES:
                    self._chains.append(value)
        self._chains = [each for each in self._chains if (each["family"], each["table"]) not in dormant]

    def firewalls(self) -> list[Firewall]:
        """The base chains."""
        return [self._firewall(chain) for chain in sorted(self._chains, key=lambda chain: int(chain["prio"]))]

    def _firewall(self, chain: Json) -> Firewall:
        policy: Verdict = "drop" if chain.get("policy") == "drop" else "accept"
        entries = self._entries((chain["family"], chain["table"], chain["name"]), DEPTH, policy)
        return Firewall(
            kind="nftables", families=_FAMILIES[chain["family"]], entries=tuple(entries), policy=policy
        )

    def _entries(
        self, chain: tuple[str, str, str], depth: int, at_return: Verdict | None = None
    ) -> Iterator[Entry]:
        """A chain's, with those that it calls; `at_return` is what happens to packets that leave a base chain."""
        left: tuple[str, ...] = ()
        for listed in self._rules.get(chain, ()):
            rule = self._read(listed)
            made = list(self._made(listed, rule, depth))
            yield from (structs.replace(entry, unknown=left + entry.unknown) for entry in made)
            if rule.jumps is None or rule.jumps[0] == "jump":
                continue
            if at_return is not None:
                yield from self._plain(listed, rule, at_return)
            if rule.is_for_all:
                return
            if at_return is None:
                # Which packets still get here is more than an entry can hold.
                left = (f"{rule.jumps[0]} before it",)

    def _made(self, listed: Json, rule: _Rule, depth: int) -> Iterator[Entry]:
        if rule.jumps is None:
            yield from self._plain(listed, rule, rule.verdict)
        elif rule.jumps[0] != "return":
            if depth == 0:
                rule.unknown.append(rule.jumps[0])
                yield from self._plain(listed, rule, "drop")
                return
            for entry in self._entries((listed["family"], listed["table"], rule.jumps[1]), depth - 1):
                for way in rule.ways:
                    yield _within(entry, way, rule.unknown)

    def _plain(self, listed: Json, rule: _Rule, verdict: Verdict) -> Iterator[Entry]:
        text = json.dumps(listed["expr"], ensure_ascii=False)
        for way in rule.ways:
            told: Way = {"comment": listed.get("comment"), "hits": rule.hits, **way}
            told["unknown"] = (*rule.unknown, *way.get("unknown", ()))
            yield Entry(line=0, text=text, verdict=verdict, **told)

    def _read(self, listed: Json) -> _Rule:
        rule = _Rule()
        for statement in listed["expr"]:
            ((kind, value),) = statement.items()
            if kind == "match":
                try:
                    more = self._match(listed, value)
                    rule.ways = [both(way, each) for way in rule.ways for each in more]
                except (_NotUnderstood, ValueError, KeyError, TypeError):
                    rule.unknown.append(json.dumps(value, ensure_ascii=False))
            elif kind in ("accept", "drop", "reject"):
                # What isn't understood may have dropped it before.
                rule.verdict = kind if rule.verdict == "continue" else rule.verdict
            elif kind in ("jump", "goto", "return"):
                rule.jumps = kind, "" if value is None else value["target"]
            elif kind == "counter" and isinstance(value, dict):
                rule.hits = value["packets"]
            elif kind in _REWRITES:
                rule.unknown.append(kind)
                rule.verdict = "accept"
            elif kind in _CONDITIONS:
                rule.unknown.append(kind)
            elif kind not in _IDLE:
                # What it does isn't known: it may as well drop.
                rule.unknown.append(kind)
                rule.verdict = "drop"
        return rule

    def _match(self, rule: Json, match: Json) -> list[Way]:
        if match["op"] not in ("==", "in"):
            raise _NotUnderstood
        left, right = match["left"], match["right"]
        elements = self._elements(rule, right)
        if left.get("ct", {}).get("key") == "state":
            return [
                states(each for value in elements for each in (value if isinstance(value, list) else [value]))
            ]
        named: Way = {}
        if isinstance(right, str) and right.startswith("@") and is_set_name(right[1:]):
            named = {"name_set": right[1:]}
            if not elements:
                return [named | {"family": int(right[1:].partition("_")[0][-1]), "unknown": (EMPTY_SET,)}]
        lefts = left.get("concat", [left])
        ways: list[Way] = []
        for element in elements:
            value, told = element, {}
            if isinstance(element, dict) and "elem" in element:
                inner = element["elem"]
                value = inner["val"]
                # Of a rule by name its own comment is told.
                told = {"comment": inner["comment"]} if "comment" in inner and not named else {}
                if "counter" in inner:
                    told["hits"] = inner["counter"]["packets"]
            values = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
            if len(values) != len(lefts):
                raise _NotUnderstood
            made: list[Way] = [told | named]
            for each, wanted in zip(lefts, values, strict=True):
                made = [both(way, more) for way in made for more in _field(each, wanted)]
            ways += made
        return _as_one(ways)

    def _elements(self, rule: Json, right: Json) -> list[Json]:
        if isinstance(right, str) and right.startswith("@"):
            return list(self._sets[rule["family"], rule["table"], right[1:]].get("elem", ()))
        if isinstance(right, dict) and "set" in right:
            return list(right["set"])
        return [right]


def _as_one(ways: list[Way]) -> list[Way]:
    """Types of ICMP of one rule are one entry, as in a file."""
    types = [way["icmp_types"][0] for way in ways if way.keys() == {"family", "protocol", "icmp_types"}]
    if len(types) < 2 or len(types) < len(ways):
        return ways
    return [{**ways[0], "icmp_types": tuple(sorted(types))}]


def _within(entry: Entry, way: Way, unknown: list[str]) -> Entry:
    """An entry of a chain that only what a rule asks for gets to."""
    asked = {key: value for key, value in way.items() if key in _FIELDS}
    mine = {key: getattr(entry, key) for key in _FIELDS if getattr(entry, key) not in (None, False)}
    try:
        merged = both(asked, mine)
    except ValueError as error:
        merged, unknown = {}, [*unknown, str(error)]
    return structs.replace(entry, unknown=(*unknown, *entry.unknown), **merged)


def _field(left: Json, value: Json) -> Iterator[Way]:
    if "payload" in left:
        yield from _payload(left["payload"], value)
    elif "meta" in left:
        yield from _meta(left["meta"]["key"] if isinstance(left["meta"], dict) else left["meta"], value)
    elif left.get("socket", {}).get("key") == "cgroupv2":
        # A cgroup that is gone has a number instead of a path, and nothing is in it.
        if isinstance(value, str) and not value.isdecimal():
            # The kernel compares the ancestor of that level alone.
            if left["socket"].get("level", value.count("/") + 1) != value.count("/") + 1:
                raise _NotUnderstood
            yield {"cgroup": value}
    else:
        raise _NotUnderstood


def _payload(payload: Json, value: Json) -> Iterator[Way]:
    protocol, field = payload["protocol"], payload["field"]
    if field == "daddr" and protocol in ("ip", "ip6"):
        for network in _networks(value):
            yield {"family": network.family, "network": network}
    elif (protocol, field) == ("ip", "protocol"):
        yield {"family": 4, "protocol": _protocol(value)}
    elif protocol in ("tcp", "udp", "th") and field in ("dport", "sport"):
        way: Way = {f"{field}s": (_range(value),)}
        yield way if protocol == "th" else way | {"protocol": PROTOCOLS[protocol]}
    elif protocol in ("icmp", "icmpv6") and field == "type":
        number = PROTOCOLS[protocol]
        value = ICMP_TYPES[number].get(value, value) if isinstance(value, str) else value
        yield {"family": 4 if number == 1 else 6, "protocol": number, "icmp_types": (_range(value),)}
    else:
        raise _NotUnderstood


def _meta(key: str, value: Json) -> Iterator[Way]:
    if key == "l4proto":
        yield {"protocol": _protocol(value)}
    elif key == "nfproto":
        yield {"family": _FAMILY_NUMBERS[value]}
    elif key == "skuid":
        yield {"uids": (_range(value),)}
    elif key in ("oifname", "oif") and isinstance(value, str) and not value.endswith("*"):
        yield {"oifname": value, "loopback": True} if value == "lo" else {"oifname": value}
    else:
        raise _NotUnderstood


def _networks(value: Json) -> Iterator[Network]:
    if isinstance(value, dict) and "prefix" in value:
        yield from networks(f"{value['prefix']['addr']}/{int(value['prefix']['len'])}")
    elif isinstance(value, dict):
        low, high = value["range"]
        yield from networks(f"{low}-{high}")
    else:
        yield from networks(value)


def _range(value: Json) -> Range:
    if isinstance(value, dict):
        low, high = value["range"]
        return int(low), int(high)
    return int(value), int(value)


def _protocol(value: Json) -> int:
    return value if isinstance(value, int) else PROTOCOLS.get(value) or int(value)

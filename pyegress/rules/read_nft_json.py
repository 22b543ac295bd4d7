# SPDX-License-Identifier: MIT
"""Rules as the kernel has them, from `nft -j -n list ruleset` (libnftables-json(5))."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

from pyegress.errors import InputError
from pyegress.rules.addresses import BITS, Network, target_of
from pyegress.rules.firewall import Entry, Firewall, Range, Verdict

DEPTH = 8
"""Chains are followed so deep into each other."""
_FAMILIES: dict[str, tuple[Any, ...]] = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}
_NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "ipv4": 4, "ipv6": 6}
_DECIDES = ("accept", "drop", "reject")
_IDLE = ("counter", "log", "limit")

Json = Any
Way = dict[str, Any]


def read_json(text: str) -> list[Firewall]:
    """Every chain that packets pass on their way out, in their order; raises InputError where it is no such list."""
    try:
        listed = json.loads(text)["nftables"]
        return _Ruleset(listed).firewalls()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"nft: its list of rules is not understood ({type(error).__name__})") from error


class _NotUnderstood(Exception):
    pass


class _Ruleset:
    def __init__(self, listed: Json) -> None:
        self._sets: dict[tuple[str, str, str], Json] = {}
        self._rules: dict[tuple[str, str, str], list[Json]] = {}
        self._chains: list[Json] = []
        for each in listed:
            for kind, value in each.items():
                if kind in ("set", "map"):
                    self._sets[value["family"], value["table"], value["name"]] = value
                elif kind == "rule":
                    self._rules.setdefault((value["family"], value["table"], value["chain"]), []).append(
                        value
                    )
                elif kind == "chain" and value.get("hook") == "output" and value["family"] in _FAMILIES:
                    self._chains.append(value)

    def firewalls(self) -> list[Firewall]:
        """The base chains."""
        return [
            Firewall(
                kind="nftables",
                families=_FAMILIES[chain["family"]],
                entries=tuple(self._entries(chain["family"], chain["table"], chain["name"], DEPTH)),
                policy="drop" if chain.get("policy") == "drop" else "accept",
            )
            for chain in sorted(self._chains, key=lambda chain: int(chain["prio"]))
        ]

    def _entries(self, family: str, table: str, chain: str, depth: int) -> Iterator[Entry]:
        for rule in self._rules.get((family, table, chain), ()):
            yield from self._rule(rule, depth)

    def _rule(self, rule: Json, depth: int) -> Iterator[Entry]:
        ways: list[Way] = [{}]
        unknown: list[str] = []
        verdict: Verdict = "continue"
        hits = None
        for statement in rule["expr"]:
            ((kind, value),) = statement.items()
            if kind == "match":
                try:
                    ways = [{**way, **more} for way in ways for more in self._match(rule, value)]
                except (_NotUnderstood, ValueError, KeyError, TypeError):
                    unknown.append(json.dumps(value, ensure_ascii=False))
            elif kind == "counter":
                hits = value["packets"] if isinstance(value, dict) else None
            elif kind in _DECIDES:
                verdict = kind
            elif kind in ("jump", "goto") and len(rule["expr"]) == 1 and depth and kind == "jump":
                yield from self._entries(rule["family"], rule["table"], value["target"], depth - 1)
                return
            elif kind not in _IDLE:
                # What it does isn't known: it may as well drop.
                unknown.append(kind)
                verdict = "drop"
        text = json.dumps(rule["expr"], ensure_ascii=False)
        for way in ways:
            entry: Way = {"comment": rule.get("comment"), "hits": hits, **way}
            yield Entry(line=0, text=text, verdict=verdict, unknown=tuple(unknown), **entry)

    def _match(self, rule: Json, match: Json) -> Iterator[Way]:
        if match["op"] not in ("==", "in"):
            raise _NotUnderstood
        left, right = match["left"], match["right"]
        lefts = left.get("concat", [left])
        ways = []
        for element in self._elements(rule, right):
            value, told = element, {}
            if isinstance(element, dict) and "elem" in element:
                inner = element["elem"]
                value = inner["val"]
                told = {"comment": inner["comment"]} if "comment" in inner else {}
                if "counter" in inner:
                    told["hits"] = inner["counter"]["packets"]
            values = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
            if len(values) != len(lefts):
                raise _NotUnderstood
            made: list[Way] = [told]
            for each, wanted in zip(lefts, values, strict=True):
                made = [{**way, **more} for way in made for more in _field(each, wanted)]
            ways += made
        if (
            len(lefts) == 1
            and len(ways) > 1
            and all(way.keys() == {"icmp_types", "protocol"} for way in ways)
        ):
            ways = [{**ways[0], "icmp_types": tuple(sorted(way["icmp_types"][0] for way in ways))}]
        return iter(ways)

    def _elements(self, rule: Json, right: Json) -> list[Json]:
        if isinstance(right, str) and right.startswith("@"):
            return list(self._sets[rule["family"], rule["table"], right[1:]].get("elem", ()))
        if isinstance(right, dict) and "set" in right:
            return list(right["set"])
        return [right]


def _field(left: Json, value: Json) -> Iterator[Way]:
    if "payload" in left:
        yield from _payload(left["payload"], value)
    elif "meta" in left:
        yield from _meta(left["meta"]["key"] if isinstance(left["meta"], dict) else left["meta"], value)
    elif left.get("ct", {}).get("key") == "state":
        states = value if isinstance(value, list) else [value]
        if "new" in states:
            raise _NotUnderstood
        yield {"established": True}
    elif left.get("socket", {}).get("key") == "cgroupv2":
        yield {"cgroup": str(value)}
    else:
        raise _NotUnderstood


def _payload(payload: Json, value: Json) -> Iterator[Way]:
    protocol, field = payload["protocol"], payload["field"]
    if field == "daddr" and protocol in ("ip", "ip6"):
        for network in _networks(value):
            yield {"family": network.family, "network": network}
    elif (protocol, field) == ("ip", "protocol"):
        yield {"family": 4, "protocol": _number(value)}
    elif protocol in ("tcp", "udp", "th") and field in ("dport", "sport"):
        way: Way = {f"{field}s": (_range(value),)}
        yield way if protocol == "th" else way | {"protocol": _NUMBERS[protocol]}
    elif protocol in ("icmp", "icmpv6") and field == "type":
        yield {"protocol": _NUMBERS[protocol], "icmp_types": (_range(value),)}
    else:
        raise _NotUnderstood


def _meta(key: str, value: Json) -> Iterator[Way]:
    if key == "l4proto":
        yield {"protocol": _number(value)}
    elif key == "nfproto":
        number = _number(value)
        yield {"family": {2: 4, 10: 6}.get(number, number)}
    elif key == "skuid":
        yield {"uids": (_range(value),)}
    elif key in ("oifname", "oif") and isinstance(value, str) and not value.endswith("*"):
        yield {"oifname": value, "loopback": True} if value == "lo" else {"oifname": value}
    else:
        raise _NotUnderstood


def _networks(value: Json) -> Iterator[Network]:
    if isinstance(value, dict) and "prefix" in value:
        first = _address(value["prefix"]["addr"])
        prefix = int(value["prefix"]["len"])
        yield Network(first.family, first.first, prefix)
    elif isinstance(value, dict) and "range" in value:
        low, high = (ipaddress.ip_address(text) for text in value["range"])
        for part in ipaddress.summarize_address_range(low, high):
            yield Network(4 if part.version == 4 else 6, int(part.network_address), part.prefixlen)
    else:
        yield _address(value)


def _address(text: Json) -> Network:
    target = target_of(text)
    if target is None:
        raise _NotUnderstood
    if ":" in text and target.network.family == 4:
        return Network(6, 0xFFFF << 32 | target.network.first, BITS[6])
    return target.network


def _range(value: Json) -> Range:
    if isinstance(value, dict):
        low, high = value["range"]
        return int(low), int(high)
    return int(value), int(value)


def _number(value: Json) -> int:
    return value if isinstance(value, int) else _NUMBERS.get(value) or int(value)

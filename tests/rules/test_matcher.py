# SPDX-License-Identifier: MIT
"""The index decides as asking one rule after the other does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.rules.addresses import BITS, Network
from pyegress.rules.firewall import Entry, Firewall
from pyegress.rules.matcher import Decision, Matcher, Packet


def entry(verdict: Any = "accept", **asked: Any) -> Entry:
    return Entry(line=1, text="rule", verdict=verdict, **asked)


def decide(packet: Packet, *entries: Entry, policy: Any = "drop") -> Decision:
    return Matcher(Firewall(kind="nftables", families=(4, 6), entries=entries, policy=policy)).decide(packet)


def naive(packet: Packet, entries: list[Entry], policy: str) -> Decision:
    """As the kernel does, with three answers: yes, no, not known."""
    for place, each in enumerate(entries):
        if each.verdict == "continue":
            continue
        answers = [
            not each.established,
            each.family in (None, packet.family),
            each.protocol in (None, packet.protocol),
            None if each.unknown else True,
        ]
        if each.network is not None:
            shift = BITS[each.network.family] - each.network.prefix
            answers.append(
                each.network.family == packet.family
                and packet.address >> shift == each.network.first >> shift
            )
        if each.dports is not None:
            answers.append(any(a <= packet.dport <= b for a, b in each.dports) if packet.dport else False)
        for ranges, value in ((each.uids, packet.uid), (each.sports, packet.sport)):
            if ranges is not None:
                answers.append(None if value is None else any(a <= value <= b for a, b in ranges))
        for device in filter(None, (each.oifname, "lo" if each.loopback else None)):
            answers.append(None if packet.oifname is None else device == packet.oifname)
        if each.cgroup is not None:
            inside = f"{packet.cgroup}/".startswith(f"{each.cgroup}/")
            answers.append(None if packet.cgroup is None else inside)
        if each.icmp_types is not None:
            answers.append(None if packet.protocol in (1, 58) else False)
        if False in answers or (None in answers and each.verdict == "accept"):
            continue
        return Decision(each.verdict == "accept", place, None not in answers)
    return Decision(policy == "accept", None)


PORTS = (53, 80, 81, 443)
CGROUPS = ("a.slice", "a.slice/b.service", "a.slice/b.servicex", "c.slice")


def networks(draw: st.DrawFn) -> Network | None:
    """Few, so that they hold each other and the packets."""
    family: Any = draw(st.sampled_from([4, 6]))
    bits = BITS[family]
    prefix = draw(st.sampled_from([0, bits - 8, bits - 1, bits]))
    shift = bits - prefix
    return draw(st.none() | st.integers(0, 3).map(lambda n: Network(family, n >> shift << shift, prefix)))


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Any, with matches that are not known now and then."""
    network = networks(draw)
    ranges = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).filter(lambda r: r[0] <= r[1])
    some = st.none() | st.lists(ranges, min_size=1, max_size=3).map(tuple)
    mostly_none = st.integers(0, 7)
    rare = draw(mostly_none)
    return entry(
        draw(st.sampled_from(["accept", "accept", "drop", "reject", "continue"])),
        family=draw(st.sampled_from([None, None, 4, 6])) if network is None else network.family,
        protocol=draw(st.sampled_from([None, 1, 6, 17])),
        network=network,
        dports=draw(some),
        sports=draw(some) if rare == 1 else None,
        oifname="eth0" if rare == 2 else None,
        loopback=rare == 3,
        uids=draw(some) if rare == 4 else None,
        cgroup=draw(st.sampled_from(CGROUPS)) if rare == 5 else None,
        icmp_types=((8, 8),) if rare == 6 else None,
        established=rare == 7,
        unknown=("what",) if draw(st.integers(0, 9)) == 0 else (),
    )


PACKETS = st.builds(
    lambda protocol, port, **more: Packet(protocol=protocol, dport=None if protocol == 1 else port, **more),
    family=st.sampled_from([4, 6]),
    protocol=st.sampled_from([1, 6, 17]),
    port=st.sampled_from(PORTS),
    address=st.integers(0, 4),
    oifname=st.sampled_from([None, "eth0", "lo", ""]),
    uid=st.sampled_from([None, *PORTS]),
    cgroup=st.sampled_from([None, "", *CGROUPS, "a.slice/b.service/c"]),
    sport=st.sampled_from([None, *PORTS]),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(entries(), max_size=12),
    st.lists(PACKETS, min_size=1, max_size=8),
    st.sampled_from(["accept", "drop"]),
)
def test_index_is_first_to_last(rules: list[Entry], packets: list[Packet], policy: Any) -> None:
    matcher = Matcher(Firewall(kind="iptables", families=(4, 6), entries=tuple(rules), policy=policy))
    for packet in packets:
        assert matcher.decide(packet) == naive(packet, rules, policy)


TCP = Packet(4, 6, 0xC0000201, 443)
HTTPS = ((443, 443),)


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ({"uids": ((33, 33),)}, {"uid": 33}),
        ({"cgroup": "system.slice"}, {"cgroup": "system.slice/a.service"}),
        ({"oifname": "eth0"}, {"oifname": "eth0"}),
        ({"loopback": True}, {"oifname": "lo"}),
        ({"sports": ((68, 68),)}, {"sport": 68}),
    ],
)
def test_what_is_not_known_lets_nothing_through_and_may_drop(
    asked: dict[str, Any], known: dict[str, Any]
) -> None:
    assert decide(TCP, entry(**asked)) == Decision(False, None)
    assert decide(TCP, entry("drop", **asked), policy="accept") == Decision(False, 0, surely=False)
    packet = TCP._replace(**known)
    assert decide(packet, entry(**asked)) == Decision(True, 0)
    assert decide(packet, entry("drop", **asked), policy="accept") == Decision(False, 0)


def test_what_is_not_understood_lets_nothing_through_and_may_drop() -> None:
    odd = {"dports": HTTPS, "unknown": ("-m string",)}
    assert decide(TCP, entry(**odd)) == Decision(False, None)
    assert decide(TCP, entry("reject", **odd), policy="accept") == Decision(False, 0, surely=False)
    assert decide(TCP._replace(dport=80), entry("drop", **odd), policy="accept") == Decision(True, None)


def test_first_packets_are_never_established() -> None:
    assert decide(TCP, entry(established=True)) == Decision(False, None)
    assert decide(TCP, entry("drop", established=True), policy="accept") == Decision(True, None)


def test_the_first_that_matches_decides_however_wide() -> None:
    host, everything = Network(4, TCP.address, 32), Network(4, 0, 0)
    drop, accept = entry("drop", network=everything), entry(network=host, protocol=6, dports=HTTPS)
    assert decide(TCP, drop, accept) == Decision(False, 0)
    assert decide(TCP, accept, drop) == Decision(True, 0)
    assert decide(TCP, entry("continue"), accept) == Decision(True, 1)


def test_types_of_icmp_are_not_known() -> None:
    ping = Packet(4, 1, TCP.address, None)
    echo = {"protocol": 1, "icmp_types": ((8, 8),)}
    assert decide(ping, entry(**echo)) == Decision(False, None)
    assert decide(ping, entry("drop", **echo), policy="accept") == Decision(False, 0, surely=False)
    assert decide(TCP, entry("drop", icmp_types=((8, 8),)), policy="accept") == Decision(True, None)

# SPDX-License-Identifier: MIT
"""Connections become one rule a destination, and none that matches too much."""

from __future__ import annotations

import random

import pytest

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules.model import Rule, RuleSet


def connection(protocol: str, dest_ip: str, dest_port: int | None, **more: object) -> Connection:
    return Connection(1, "ebpf", protocol, 6 if ":" in dest_ip else 4, dest_ip, dest_port, **more)  # type: ignore[arg-type]


def ruleset(*connections: Connection, limit: int = 100) -> tuple[RuleSet, Losses]:
    losses = Losses()
    rules = RuleSet("iptables", losses, limit)
    rules.add(connections)
    return rules, losses


def brief(rule: Rule) -> tuple[int, str, str, int | None, str | None]:
    return rule.family, rule.protocol, rule.dest_ip, rule.dest_port, rule.ifname


def test_one_rule_a_destination_with_its_first_known_process() -> None:
    curl, wget = Process(pid=1, name="curl"), Process(pid=2, name="wget")
    rules, _ = ruleset(
        connection("tcp", "192.0.2.1", 443),
        *[connection("tcp", "192.0.2.1", 443, process=process) for process in [curl, wget] * 50],
        connection("udp", "192.0.2.1", 443, count=7),
    )
    tcp, udp = rules.rules()
    assert (tcp.protocol, tcp.count, tcp.process) == ("tcp", 101, curl)
    assert (udp.protocol, udp.count, udp.process) == ("udp", 7, None)


def test_order_is_by_family_protocol_number_and_port() -> None:
    wanted = [
        (4, "1", "192.0.2.9", None, None),
        (4, "tcp", "9.0.0.1", 443, None),
        (4, "tcp", "10.0.0.1", 22, None),
        (4, "tcp", "10.0.0.1", 443, None),
        (4, "udp", "10.0.0.1", 53, None),
        (6, "58", "2001:db8::1", None, None),
        (6, "tcp", "2001:db8::2", 1, None),
        (6, "tcp", "2001:db8::10", 1, None),
    ]
    for seed in range(5):
        mixed = random.Random(seed).sample(wanted, len(wanted))
        rules, _ = ruleset(*[connection(protocol, ip, port) for _, protocol, ip, port, _ in mixed])
        assert [brief(rule) for rule in rules.rules()] == wanted


@pytest.mark.parametrize(
    ("given", "family", "text"),
    [
        ("64:ff9b::192.0.2.33", 6, "64:ff9b::c000:221"),
        ("::ffff:192.0.2.1", 4, "192.0.2.1"),
        ("2001:0DB8:0:0::1", 6, "2001:db8::1"),
        ("ff02::fb", 6, "ff02::fb"),
        ("224.0.0.251", 4, "224.0.0.251"),
    ],
)
def test_address_text_is_canonical(given: str, family: int, text: str) -> None:
    (rule,) = ruleset(connection("udp", given, 53), connection("udp", text, 53))[0].rules()
    assert (rule.family, rule.dest_ip, rule.count) == (family, text, 2)


def test_interface_only_for_link_local() -> None:
    rules, _ = ruleset(
        connection("tcp", "fe80::1%eth0", 443),
        connection("tcp", "fe80::1", 443, ifname="eth0"),
        connection("tcp", "fe80::1", 443, ifname="eth1"),
        connection("tcp", "169.254.0.1", 443, ifname="eth0"),
        connection("tcp", "192.0.2.1", 443, ifname="eth0"),
        connection("tcp", "192.0.2.1", 443, ifname="eth1"),
    )
    assert [brief(rule) for rule in rules.rules()] == [
        (4, "tcp", "169.254.0.1", 443, "eth0"),
        (4, "tcp", "192.0.2.1", 443, None),
        (6, "tcp", "fe80::1", 443, "eth0"),
        (6, "tcp", "fe80::1", 443, "eth1"),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (connection("udp", "192.0.2.1", 0), "no destination port"),
        (connection("tcp", "192.0.2.1", None), "no destination port"),
        (connection("tcp", "192.0.2.1", 65536), "no destination port"),
        (connection("tcp", "0.0.0.0", 80), "no address that packets are sent to"),
        (connection("tcp", "::", 80), "no address that packets are sent to"),
        (connection("tcp", "-j", 80), "no address that packets are sent to"),
        (connection("0", "192.0.2.1", None), "a protocol that no rule can name"),
        (connection("256", "192.0.2.1", None), "a protocol that no rule can name"),
        (connection("-j", "192.0.2.1", None), "a protocol that no rule can name"),
        (connection("tcp", "fe80::1", 80, ifname="eth+"), "an interface name that no rule can hold"),
        (connection("tcp", "fe80::1", 80, ifname="-j"), "an interface name that no rule can hold"),
        (connection("tcp", "fe80::1", 80, ifname="$(id)"), "an interface name that no rule can hold"),
        (connection("tcp", "fe80::1%a b", 80), "an interface name that no rule can hold"),
    ],
)
def test_what_no_rule_can_match_is_counted(given: Connection, reason: str) -> None:
    rules, losses = ruleset(given)
    assert rules.rules() == []
    assert losses.snapshot() == {("skipped", f"iptables: {reason}"): 1}


def test_inbound_makes_no_rule() -> None:
    rules, losses = ruleset(connection("tcp", "192.0.2.1", 22, direction="in"))
    assert len(rules) == 0
    assert losses.snapshot() == {}


def test_port_of_other_protocols_is_left_out() -> None:
    (rule,) = ruleset(connection("1", "192.0.2.1", 8), connection("1", "192.0.2.1", None))[0].rules()
    assert (rule.dest_port, rule.count) == (None, 2)


def test_bounded() -> None:
    rules, losses = ruleset(*[connection("tcp", "192.0.2.1", port) for port in (1, 2, 3, 4, 1)], limit=2)
    assert [(rule.dest_port, rule.count) for rule in rules.rules()] == [(1, 2), (2, 1)]
    assert losses.snapshot() == {("lost", "iptables: rules beyond limit"): 2}

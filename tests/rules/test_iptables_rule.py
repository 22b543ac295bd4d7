# SPDX-License-Identifier: MIT
"""What one rule asks for."""

from __future__ import annotations

import socket

import pytest

from pyegress.rules.addresses import Family
from pyegress.rules.firewall import Entry
from pyegress.rules.iptables_rule import Line, rule_of
from pyegress.rules.iptables_words import BadLineError, restore_words

PLAIN = Entry(line=3, text="", verdict="continue")


def read(text: str, family: Family = 4) -> Line:
    return rule_of(restore_words(text), family, 3, text, None)


def asked(text: str, family: Family = 4) -> dict[str, object]:
    """The fields of its one entry that say anything."""
    (entry,) = read(text, family).entries
    assert (entry.line, entry.text, entry.family) == (3, text, family)
    names = [name for name in Entry.__struct_fields__ if name not in ("line", "text", "verdict", "family")]
    found = {name: getattr(entry, name) for name in names if getattr(entry, name) != getattr(PLAIN, name)}
    if "network" in found:
        found["network"] = str(found["network"])
    return found


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("-d 192.0.2.1/32", {"network": "192.0.2.1"}),
        ("-d 192.0.2.77/24", {"network": "192.0.2.0/24"}),
        ("--dst 192.0.2.0/255.255.255.0", {"network": "192.0.2.0/24"}),
        ("-d 0.0.0.0/0", {}),
        ("-d 192.0.2.0/255.0.255.0", {"unknown": ("--destination 192.0.2.0/255.0.255.0",)}),
        ("-d host.example", {"unknown": ("--destination host.example",)}),
        ("! -d 192.0.2.1", {"unknown": ("! --destination 192.0.2.1",)}),
        ("-s 192.0.2.1/32", {"unknown": ("--source 192.0.2.1/32",)}),
        ("-ptcp", {"protocol": 6}),
        ("-p icmp", {"protocol": 1}),
        ("-p ipv6-icmp", {"protocol": 58}),
        ("-p 255", {"protocol": 255}),
        ("-p all", {}),
        ("-p 0", {}),
        ("-p nonsense", {"unknown": ("--protocol nonsense",)}),
        ("! --protocol tcp", {"unknown": ("! --protocol tcp",)}),
        ("-p tcp -m tcp --dport 443", {"protocol": 6, "dports": ((443, 443),)}),
        ("-p tcp --dport=1:5 --sport 7:", {"protocol": 6, "dports": ((1, 5),), "sports": ((7, 65535),)}),
        ("-m multiport --dports 1,3:5 --sports :9", {"dports": ((1, 1), (3, 5)), "sports": ((0, 9),)}),
        ("-p tcp -m tcp ! --dport 5", {"protocol": 6, "unknown": ("! --dport 5",)}),
        ("-m multiport --ports 5", {"unknown": ("--ports 5",)}),
        ("-o lo", {"loopback": True}),
        ("-o eth0", {"oifname": "eth0"}),
        ("-o eth+", {"unknown": ("--out-interface eth+",)}),
        ("-o +", {}),
        ("! -o lo", {"unknown": ("! --out-interface lo",)}),
        ("-i lo", {"unknown": ("--in-interface lo",)}),
        ("-m owner --uid-owner 5", {"uids": ((5, 5),)}),
        ("-m owner --uid-owner 5-9", {"uids": ((5, 9),)}),
        ("-m owner --uid-owner root", {"uids": ((0, 0),)}),
        ("-m owner --uid-owner no-such-user", {"unknown": ("--uid-owner no-such-user",)}),
        ("-m owner --gid-owner 5", {"unknown": ("--gid-owner 5",)}),
        ("-m owner ! --uid-owner 5", {"unknown": ("! --uid-owner 5",)}),
        ("-m owner --socket-exists", {"unknown": ("--socket-exists",)}),
        ('-m cgroup --path "/a b/c\\\\x2d.service"', {"cgroup": "a b/c\\x2d.service"}),
        ("-m cgroup ! --path a", {"unknown": ("! --path a",)}),
        ("-m cgroup --cgroup 1", {"unknown": ("--cgroup 1",)}),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", {"established": True}),
        ("-m state --state ESTABLISHED", {"established": True}),
        ("-m conntrack --ctstate INVALID", {"established": True}),
        ("-m conntrack ! --ctstate NEW", {"established": True}),
        ("-m conntrack --ctstate NEW,ESTABLISHED", {}),
        ("-m conntrack ! --ctstate INVALID", {}),
        ("-m conntrack --ctstate UNTRACKED", {"unknown": ("--state UNTRACKED",)}),
        ("-p tcp --syn", {"protocol": 6}),
        ("-p tcp ! --syn", {"protocol": 6, "established": True}),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", {"protocol": 6}),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", {"protocol": 6, "established": True}),
        ("-p tcp -m tcp --tcp-flags RST RST", {"protocol": 6, "unknown": ("--tcp-flags RST RST",)}),
        ("-p icmp -m icmp --icmp-type 8", {"protocol": 1, "icmp_types": ((8, 8),)}),
        ("-p icmp -m icmp --icmp-type echo-request", {"protocol": 1, "icmp_types": ((8, 8),)}),
        ("-p icmp -m icmp --icmp-type any", {"protocol": 1}),
        ("-p icmp -m icmp --icmp-type 3/4", {"protocol": 1, "unknown": ("--icmp-type 3/4",)}),
        ('-m comment --comment "-j DROP"', {"comment": "-j DROP"}),
        ("-m limit --limit 1/sec", {}),
        ("-m limit --limit 1/sec --limit-burst 2 -j ACCEPT", {"unknown": ("--limit 1/sec", "--limit-burst 2")}),
        ("-m addrtype --dst-type LOCAL", {"unknown": ("--dst-type LOCAL",)}),
        ("-m socket -m comment --comment x", {"unknown": ("-m socket",), "comment": "x"}),
        ("-m set ! --match-set a dst", {"unknown": ("! --match-set a dst",)}),
        ("-j LOG --log-prefix \"a b\" --log-level 4 -m comment --comment c", {"comment": "c"}),
        ("-j ACCEPT -m mark --mark 0x1", {"unknown": ("--mark 0x1",)}),
    ],
)  # fmt: skip
def test_matches(text: str, fields: dict[str, object]) -> None:
    assert asked(text) == fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("-d 2001:db8::1/128", {"network": "2001:db8::1"}),
        ("-d 2001:db8::/32", {"network": "2001:db8::/32"}),
        ("-d ::/0", {}),
        (
            "-p ipv6-icmp -m icmp6 --icmpv6-type neighbor-solicitation",
            {"protocol": 58, "icmp_types": ((135, 135),)},
        ),
        ("-p icmpv6 --icmpv6-type 143", {"protocol": 58, "icmp_types": ((143, 143),)}),
    ],
)
def test_matches_of_ip6tables(text: str, fields: dict[str, object]) -> None:
    assert asked(text, 6) == fields


def test_names_of_services() -> None:
    """As the host knows them."""
    try:
        port = socket.getservbyname("https")
    except OSError:
        pytest.skip("this host has no /etc/services")
    assert asked("-p tcp --dport https") == {"protocol": 6, "dports": ((port, port),)}


@pytest.mark.parametrize(
    ("text", "verdict", "target", "goto"),
    [
        ("-j ACCEPT", "accept", "ACCEPT", False),
        ("-j DROP", "drop", "DROP", False),
        ("-j REJECT --reject-with tcp-reset", "reject", "REJECT", False),
        ("-j LOG", "continue", "LOG", False),
        ("-g OTHER", "continue", "OTHER", True),
        ("", "continue", None, False),
    ],
)
def test_targets(text: str, verdict: str, target: str | None, goto: bool) -> None:
    (entry,), *led = read(text)
    assert (entry.verdict, *led) == (verdict, target, goto)


def test_several_destinations() -> None:
    entries = read("-d 192.0.2.1,198.51.100.0/24 -j ACCEPT").entries
    assert [str(entry.network) for entry in entries] == ["192.0.2.1", "198.51.100.0/24"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-p tcp --dport", "--dport: its value is missing"),
        ("-p tcp --dport 65536", "65536: no such port"),
        ("-p tcp --dport 9:3", "9:3: ports in the wrong order"),
        ("-d 2001:db8::1", "2001:db8::1: no IPv4 address"),
        ("-j ACCEPT -j DROP", "--jump DROP: a second target"),
        ("ACCEPT", "ACCEPT: no option is written so"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(BadLineError, match=message):
        read(text)

# SPDX-License-Identifier: MIT
"""What was seen by name becomes a set of addresses, and rules with all ports."""

from __future__ import annotations

from pyegress.record import Connection, Process
from pyegress.rules.bynames import name_rules, name_sets, without_name
from pyegress.rules.options import RuleOptions, Scope
from pyegress.rules.shape import Plan, plan
from pyegress.rules.wording import name_cautions, other_names
from tests.rules.observed import observed

CDN, OTHER = "198.51.100.7", "198.51.100.8"


def seen(address: str, port: int, *names: str, protocol: str = "tcp", uid: int = 0) -> Connection:
    """A connection with these names."""
    return Connection(
        1,
        "ebpf",
        protocol,
        6 if ":" in address else 4,
        address,
        port,
        process=Process(pid=7, name="curl", uid=uid),
        attribution="kernel",
        dest_names=names,
        dest_name_sources=("dns",) * len(names),
    )


def made(*connections: Connection, scope: Scope = "any") -> Plan:
    """The rules for them."""
    return plan(observed(connections, by_name=True), RuleOptions(scope=scope, merge="name"))


def test_ports_and_addresses() -> None:
    """Each name has its addresses, by family, and rules by protocol; what has no name stays by address."""
    found = made(
        seen(CDN, 443, "a.example"),
        seen(OTHER, 80, "a.example"),
        seen(OTHER, 81, "a.example"),
        seen("2001:db8::1", 443, "a.example"),
        seen(CDN, 443, "a.example", protocol="udp"),
        seen(CDN, 443),
        seen("fe80::1", 443, "a.example"),
    ).rules
    sets = {key: [str(address) for address in addresses] for key, addresses in name_sets(found).items()}
    assert sets == {("a.example", 4): [CDN, OTHER], ("a.example", 6): ["2001:db8::1"]}
    assert [(rule.family, rule.protocol, rule.ports) for rule in name_rules(found)] == [
        (4, "tcp", ((80, 81), (443, 443))),
        (4, "udp", ((443, 443),)),
        (6, "tcp", ((443, 443),)),
    ]
    assert [str(rule.network) for rule in without_name(found)] == [CDN, "fe80::1"]


def test_owners() -> None:
    """Have rules of their own, which look into one set."""
    found = made(seen(CDN, 443, "a.example", uid=1), seen(CDN, 80, "a.example", uid=2), scope="user").rules
    assert [(rule.who.uid, rule.ports) for rule in name_rules(found)] == [
        (1, ((443, 443),)),
        (2, ((80, 80),)),
    ]
    assert len(name_sets(found)) == 1


def test_other_names_are_told() -> None:
    """Also those that were only asked for, because they are let through too."""
    found = made(seen(CDN, 443, "a.example", "b.example"), seen(OTHER, 443, "a.example"))
    (address,) = found.shared
    assert list(other_names("a.example", address, found)) == [
        "lets through too what is here by other names or aliases: b.example"
    ]
    assert list(name_cautions(found)) == [
        "1 address has several names, or aliases; a rule for one of them lets the others through: "
        f"{CDN} (a.example, b.example)"
    ]
    assert list(name_cautions(made(seen(OTHER, 443, "a.example")))) == []
    (line,) = name_cautions(made(seen(OTHER, 443)))
    assert line == "merge:name: no connection has a name, so all rules are by address; observe with names:dns"

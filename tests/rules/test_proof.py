# SPDX-License-Identifier: MIT
"""Connections against rules: what would be dropped, what nothing used, and what is not judged."""

from __future__ import annotations

from typing import Any

import pytest

from pyegress.record import Connection, Process
from pyegress.rules import proof as proof_module
from pyegress.rules.addresses import Network, target_of
from pyegress.rules.firewall import Entry, Firewall
from pyegress.rules.proof import Proof, verify


def rule(address: str | None = None, port: int | None = None, verdict: Any = "accept", **asked: Any) -> Entry:
    target = None if address is None else target_of(address)
    return Entry(
        line=1,
        text=f"{verdict} {address} {port}",
        verdict=verdict,
        network=None if target is None else target.network,
        dports=None if port is None else ((port, port),),
        **asked,
    )


def firewall(*entries: Entry, families: Any = (4, 6), policy: Any = "drop") -> Firewall:
    return Firewall(kind="nftables", families=families, entries=entries, policy=policy)


def connection(
    address: str = "192.0.2.1", port: int | None = 443, protocol: str = "tcp", **more: Any
) -> Connection:
    return Connection(1, "ebpf", protocol, 6 if ":" in address else 4, address, port, **more)


def proved(firewalls: list[Firewall], *connections: Connection) -> Proof:
    return verify(firewalls, [connections[:1], connections[1:]])


def told(proof: Proof) -> list[tuple[int, int | None, int]]:
    return [(each.packet.address & 0xFF, each.packet.dport, each.count) for each in proof.drops]


def test_all_that_was_observed_passes() -> None:
    proof = proved(
        [firewall(rule("192.0.2.1", 443), rule("2001:db8::1", 53))],
        connection(),
        connection("2001:db8::1", 53, "udp"),
    )
    assert (proof.observed, proof.dropped, proof.drops, proof.unused, proof.rules) == (2, 0, (), (), 2)


def test_dropped_ones_are_told_once_the_most_frequent_first() -> None:
    rules = firewall(rule("192.0.2.1", 443), rule("192.0.2.9", 22, "reject"), rule("192.0.2.9"))
    curl = Process(pid=1, name="curl", user="root")
    proof = proved(
        [rules],
        connection("192.0.2.2", 80, process=curl, count=7),
        *[connection("192.0.2.9", 22)] * 3,
        *[connection("::ffff:192.0.2.9", 22)] * 2,
        connection(),
    )
    assert (proof.observed, proof.dropped) == (7, 6)
    assert told(proof) == [(9, 22, 5), (2, 80, 1)]
    rejected, by_policy = proof.drops
    assert rejected.entry == rules.entries[1] and by_policy.entry is None
    assert by_policy.program.name == "curl"


def test_every_chain_must_accept() -> None:
    both = [firewall(rule("192.0.2.1")), firewall(rule(verdict="drop", port=443), policy="accept")]
    assert proved(both, connection()).dropped == 1
    assert proved(both, connection(port=80)).dropped == 0
    assert proved(both, connection()).unused == ()


def test_a_chain_of_the_other_family_is_not_asked() -> None:
    v4, v6 = firewall(rule("192.0.2.1"), families=(4,)), firewall(families=(6,))
    only_v4 = proved([v4], connection(), connection("2001:db8::1"), connection("2001:db8::2"))
    assert (only_v4.observed, only_v4.dropped, only_v4.not_judged) == (1, 0, ((6, 2),))
    both = proved([v4, v6], connection(), connection("2001:db8::1"))
    assert (both.observed, both.dropped, both.not_judged) == (2, 1, ())


def test_what_a_policy_alone_lets_through_is_said() -> None:
    proof = proved([firewall(rule("192.0.2.1"), policy="accept")], connection(), connection("192.0.2.2"))
    assert (proof.dropped, proof.by_policy) == (0, 1)
    assert [each.packet.address & 0xFF for each in proof.unruled] == [2]


def test_rules_that_nothing_used() -> None:
    entries = (
        rule("192.0.2.1"),
        rule("192.0.2.1", 443),
        rule("192.0.2.2"),
        rule("192.0.2.3", verdict="drop"),
        rule(established=True),
        rule(loopback=True),
        rule(protocol=58, icmp_types=((135, 135),)),
        rule(port=1, unknown=("what",)),
    )
    proof = proved([firewall(*entries)], connection())
    assert proof.unused == entries[1:3] and proof.rules == 3
    assert proof.not_understood == entries[7:]


def test_what_does_not_count() -> None:
    proof = proved(
        [firewall()],
        connection(direction="in"),
        connection(verdict="drop"),
        connection(verdict="reject"),
        connection("0.0.0.0"),
        connection(port=None),
    )
    assert (proof.observed, proof.dropped) == (0, 0)
    assert dict(proof.left_out) == {
        "not outbound": 1,
        "not let through": 2,
        "no address that packets are sent to": 1,
        "no destination port": 1,
    }


def process(cgroup: str | None, **more: Any) -> Process:
    return Process(pid=1, cgroup=cgroup, cgroup_id=7, **more)


def test_owners_are_told_apart_where_rules_ask() -> None:
    rules = firewall(rule(uids=((33, 40), (1000, 1000))))
    uids = [
        (0, True),
        (32, True),
        (33, False),
        (40, False),
        (41, True),
        (999, True),
        (1000, False),
        (1001, True),
    ]
    for uid, dropped in uids:
        assert proved([rules], connection(socket_uid=uid)).dropped == dropped, uid
    assert proved([rules], *[connection(socket_uid=uid) for uid, _ in uids]).dropped == 5
    assert proved([rules], connection(process=process(None, uid=33))).dropped == 0
    assert proved([rules], connection(process=process(None, uid=33), socket_uid=0)).dropped == 1
    assert proved([rules], connection(process=process(None, uid=33), kernel_socket=True)).dropped == 1
    assert proved([rules], connection()).dropped == 1


@pytest.mark.parametrize(
    ("cgroup", "dropped"),
    [
        ("/system.slice/a.service", 0),
        ("/system.slice/a.service/payload/deep", 0),
        ("/system.slice/a.servicex", 1),
        ("/system.slice", 1),
        ("/", 1),
        (None, 1),
    ],
)
def test_units_are_cgroups_and_all_below(cgroup: str | None, dropped: int) -> None:
    rules = firewall(rule(cgroup="system.slice/a.service"))
    assert proved([rules], connection(process=process(cgroup))).dropped == dropped


def test_an_outer_and_an_inner_cgroup() -> None:
    rules = firewall(rule(cgroup="a/b", port=1), rule(cgroup="a", port=2))
    inside = process("/a/b/c")
    assert (
        proved([rules], connection(port=1, process=inside), connection(port=2, process=inside)).dropped == 0
    )
    assert proved([rules], connection(port=1, process=process("/a/x"))).dropped == 1


def test_a_cgroup_of_v1_is_none_that_rules_know() -> None:
    v1 = Process(pid=1, cgroup="/a", cgroup_id=1 << 62 | 7)
    assert proved([firewall(rule(cgroup="a"))], connection(process=v1)).dropped == 1


def test_devices() -> None:
    lo, eth0 = firewall(rule(loopback=True)), firewall(rule(oifname="eth0"))
    assert proved([lo], connection("127.9.9.9"), connection("::1"), connection(ifname="lo")).dropped == 0
    assert proved([lo], connection("128.0.0.1")).dropped == 1
    assert proved([eth0], connection(ifname="eth0"), connection("fe80::1%eth0")).dropped == 0
    assert (
        proved([eth0], connection(ifname="eth1"), connection("fe80::1"), connection("127.0.0.1")).dropped == 3
    )


def test_source_ports() -> None:
    rules = firewall(rule(port=67, sports=((68, 68),)))
    dhcp: dict[str, Any] = {"port": 67, "protocol": "udp"}
    assert proved([rules], connection(**dhcp, src_port=68)).dropped == 0
    assert proved([rules], connection(**dhcp, src_port=69), connection(**dhcp)).dropped == 2


def test_protocols_without_ports() -> None:
    rules = firewall(rule(protocol=132))
    assert proved([rules], connection(port=None, protocol="132")).dropped == 0
    assert proved([rules], connection(port=None, protocol="1")).dropped == 1


def test_maybe_dropped_is_not_let_through() -> None:
    rules = firewall(rule(verdict="drop", unknown=("-m string",)), policy="accept")
    proof = proved([rules], connection())
    assert proof.dropped == 1 and not proof.drops[0].surely


def test_more_than_is_told_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_module, "MAX_TOLD", 3)
    monkeypatch.setattr(proof_module, "_CACHED", 5)
    many = [connection(f"198.51.100.{last}") for last in range(1, 101)] * 2
    proof = proved([firewall(rule("198.51.100.50"))], *many)
    assert (proof.observed, proof.dropped, len(proof.drops), proof.unused) == (200, 198, 3, ())


def test_networks_of_one_family_hold_no_other() -> None:
    rules = firewall(Entry(line=1, text="", verdict="accept", network=Network(6, 0, 0)))
    proof = proved([rules], connection(), connection("2001:db8::1"))
    assert told(proof) == [(1, 443, 1)] and proof.drops[0].packet.family == 4

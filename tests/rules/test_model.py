# SPDX-License-Identifier: MIT
"""Connections are folded by where they went and by whose they were; what no rule can match is counted."""

from __future__ import annotations

import pytest

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules.model import (
    MAX_NAMES,
    MAX_PROGRAMS,
    Destination,
    Observations,
    Owner,
    Program,
    Seen,
    destination_of,
    owner_of,
    program_of,
    unit_path,
)

CURL, WGET = Process(pid=1, name="curl"), Process(pid=2, name="wget")


def connection(
    protocol: str = "tcp", dest_ip: str = "192.0.2.1", port: int | None = 443, **more: object
) -> Connection:
    given: dict[str, object] = {"ts": 5, "hook": "ebpf"} | more
    return Connection(
        protocol=protocol,
        ip_version=6 if ":" in dest_ip else 4,
        dest_ip=dest_ip,
        dest_port=port,
        **given,  # type: ignore[arg-type]
    )


def observations(*connections: Connection, limit: int = 100) -> tuple[Observations, Losses]:
    losses = Losses()
    made = Observations("iptables", losses, limit, live=False)
    made.add(connections)
    return made, losses


def only(*connections: Connection) -> Seen:
    ((_, _, seen),) = observations(*connections)[0]
    return seen


def brief(given: Connection) -> tuple[int, str, str, int | None, str | None]:
    found = destination_of(given)
    assert isinstance(found, Destination)
    return found.family, found.protocol, str(found.address), found.port, found.ifname


def test_counts_times_and_the_first_known_process() -> None:
    seen = only(
        connection(ts=30),
        *[connection(process=process, ts=10 + ts) for ts, process in enumerate([CURL, WGET] * 5)],
        connection(process=CURL, count=7, ts=0),
    )
    assert (seen.count, seen.first_ns, seen.last_ns, seen.process) == (18, 10, 30, CURL)
    assert [(program.name, count) for program, count in seen.programs.items()] == [
        (None, 1),
        ("curl", 12),
        ("wget", 5),
    ]


def test_programs_and_names_are_bounded() -> None:
    """What is beyond is counted, and never lost."""
    many = [
        connection(process=Process(pid=1, name=str(number)), dest_names=(f"{number}.example",))
        for number in [*range(MAX_PROGRAMS + 3), 0]
    ]
    seen = only(*many)
    assert len(seen.programs) == MAX_PROGRAMS
    assert (seen.more, seen.count) == (3, len(many))
    assert seen.names == tuple(f"{number}.example" for number in range(MAX_NAMES))


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
    assert brief(connection("udp", given, 53)) == (family, "udp", text, 53, None)
    assert only(connection("udp", given, 53), connection("udp", text, 53)).count == 2


@pytest.mark.parametrize(
    ("dest_ip", "ifname", "kept"),
    [
        ("fe80::1%eth0", None, "eth0"),
        ("fe80::1", "eth0", "eth0"),
        ("fe80::1", None, None),
        ("169.254.0.1", "eth0", "eth0"),
        ("192.0.2.1", "eth0", None),
        ("2001:db8::1", "eth0", None),
        ("fe80::1", "a" * 15, "a" * 15),
    ],
)
def test_interface_only_for_link_local(dest_ip: str, ifname: str | None, kept: str | None) -> None:
    assert brief(connection(dest_ip=dest_ip, ifname=ifname))[4] == kept


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
        (connection("tcp", "fe80::1", 80, ifname="a" * 16), "an interface name that no rule can hold"),
        (connection("tcp", "fe80::1%a b", 80), "an interface name that no rule can hold"),
        (connection(verdict="drop"), "not let through"),
        (connection("packet-udp", "192.0.2.1", 53), "sent by AF_PACKET, which no rule for OUTPUT sees"),
    ],
)
def test_what_no_rule_can_match_is_counted(given: Connection, reason: str) -> None:
    made, losses = observations(given)
    assert (list(made), made.evidence().connections) == ([], 0)
    assert losses.snapshot() == {("skipped", f"iptables: {reason}"): 1}


def test_inbound_makes_no_rule() -> None:
    made, losses = observations(connection(port=22, direction="in"))
    assert len(made) == 0
    assert losses.snapshot() == {}


def test_port_of_other_protocols_is_left_out() -> None:
    seen = only(connection("1", port=8), connection("1", port=None))
    assert seen.count == 2


def test_bounded() -> None:
    """By pairs of destination and owner."""
    made, losses = observations(*[connection(port=port) for port in (1, 2, 3, 4, 1)], limit=2)
    assert [(destination.port, seen.count) for destination, _, seen in made] == [(1, 2), (2, 1)]
    assert losses.snapshot() == {("lost", "iptables: rules beyond limit"): 2}
    assert made.evidence().losses == (("iptables: rules beyond limit", 2),)
    again, _ = observations(*[connection(socket_uid=uid) for uid in (1, 2, 3)], limit=2)
    assert (len(again), len(list(again))) == (1, 2)


def test_evidence() -> None:
    """What the rules rest on."""
    made, losses = observations(
        connection(ts=100),
        connection(ts=50, attribution="process gone"),
        connection(ts=70, port=80, attribution="ambiguous"),
        connection(ts=200, process=CURL, attribution="kernel"),
    )
    losses.add("lost", "ring buffer full", 3)
    losses.add("failed", "x", 2)
    losses.add("skipped", "filter", 9)
    evidence = made.evidence()
    assert (evidence.since_ns, evidence.until_ns, evidence.last_new_ns) == (50, 200, 70)
    assert (evidence.connections, evidence.destinations, evidence.from_logs) == (4, 2, True)
    assert set(evidence.losses) == {("ring buffer full", 3), ("failed: x", 2)}
    assert ("process gone", 1) in evidence.unattributed and ("ambiguous", 1) in evidence.unattributed


@pytest.mark.parametrize(
    ("given", "owner"),
    [
        (connection(), Owner(None, None, None)),
        (connection(socket_uid=5), Owner(5, None, None)),
        (connection(process=Process(pid=1, uid=5, user="five")), Owner(5, "five", None)),
        (connection(process=Process(pid=1, uid=5, user="five"), socket_uid=0), Owner(0, None, None)),
        (
            connection(process=Process(pid=1, uid=5, user="five"), kernel_socket=True),
            Owner(None, None, None),
        ),
        # iptables and nft refuse these, and all that is loaded with them.
        (connection(socket_uid=-1), Owner(None, None, None)),
        (connection(socket_uid=4294967295), Owner(None, None, None)),
        (connection(socket_uid=4294967294), Owner(4294967294, None, None)),
    ],
)
def test_owner(given: Connection, owner: Owner) -> None:
    """The socket's, where it is known; else the process'."""
    assert owner_of(given) == owner


@pytest.mark.parametrize(
    ("cgroup", "unit", "path"),
    [
        ("/system.slice/ssh.service", "ssh.service", "system.slice/ssh.service"),
        ("/system.slice/ssh.service/below", "ssh.service", "system.slice/ssh.service"),
        ("/user.slice/user-0.slice/session-3.scope", "session-3.scope", "user.slice/user-0.slice"),
        ("/user.slice/user-0.slice/user@0.service/x", "user@0.service", "user.slice/user-0.slice"),
        ("/a\\x2d@b:c d.service", "a\\x2d@b:c d.service", "a\\x2d@b:c d.service"),
        ("/system.slice/ssh.service", "other.service", None),
        ('/a"b.service', 'a"b.service', None),
        ("/a!b.service", "a!b.service", None),
        ("/a\nb.service", "a\nb.service", None),
        ("/\udcff.service", "\udcff.service", None),
        (f"/{'a' * 255}x.service", f"{'a' * 255}x.service", None),
    ],
)
def test_unit_path(cgroup: str, unit: str, path: str | None) -> None:
    """As far as the unit, of logins the user's slice; only what every rule syntax can hold."""
    assert unit_path(Process(pid=1, cgroup=cgroup, unit=unit, cgroup_id=4)) == path


def test_unit_path_needs_cgroup_v2() -> None:
    where = {"cgroup": "/a.service", "unit": "a.service"}
    assert unit_path(Process(pid=1, **where)) is None  # type: ignore[arg-type]
    assert unit_path(Process(pid=1, cgroup_id=1 << 62, **where)) is None  # type: ignore[arg-type]
    assert unit_path(Process(pid=1, cgroup="/", cgroup_id=1)) is None


def test_program() -> None:
    """Its own unit rather than the user manager's, the container's name rather than its number."""
    process = Process(
        pid=1,
        comm="c",
        exe="/c",
        user="u",
        unit="user@0.service",
        user_unit="x.service",
        container="f00",
        container_name="web",
        parent=Process(pid=2, comm="p"),
    )
    assert program_of(process) == Program("c", "/c", "u", "x.service", "web", "p")
    assert program_of(None) == Program(None, None, None, None, None, None)

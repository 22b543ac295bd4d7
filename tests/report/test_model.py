# SPDX-License-Identifier: MIT
"""Connections are folded by service and destination, and nothing is left out unsaid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.report import model
from pyegress.report.model import NO_REASON, OTHER, Destination, Gathered, Port, Service, service_of
from tests.logs.records import connections
from tests.report.records import HOUR, NGINX, NOW, connection, gathered


def login(unit: str) -> Process:
    """Something that a user started by hand."""
    return Process(pid=5, exe="/usr/bin/curl", name="curl", user="bob", unit=unit)


@pytest.mark.parametrize(
    ("process", "service"),
    [
        (NGINX, Service("unit", "nginx.service", None)),
        (
            Process(unit="user@1.service", user_unit="a.service", user="u"),
            Service("user unit", "a.service", "u"),
        ),
        (login("session-4.scope"), Service("program", "/usr/bin/curl", "bob")),
        (login("user@1000.service"), Service("program", "/usr/bin/curl", "bob")),
        (Process(name="perl", user="bob"), Service("program", "perl", "bob")),
        (Process(container="f" * 64, container_name="db", unit="x.scope"), Service("container", "db", None)),
        (Process(container="f" * 64), Service("container", "f" * 64, None)),
        (Process(name="kworker", kernel=True), Service("kernel", "kworker", None)),
        (Process(user="carol"), Service("unknown", NO_REASON, "carol")),
        (None, Service("unknown", NO_REASON, "uid 7")),
    ],
)
def test_service(process: Process | None, service: Service) -> None:
    """A container or unit where there is one that tells something, else program and user."""
    assert service_of(connection(process=process, socket_uid=7)) == service


def test_unknown_process_has_its_reason() -> None:
    """Those of one reason are together, and are counted."""
    made = gathered(connection(process=None, attribution="process gone", dest_port=at) for at in (1, 2, 2))
    assert list(made.services) == [Service("unknown", "process gone", None)]
    assert made.unattributed == {"process gone": 3}


def test_fold() -> None:
    """Counts add up, times widen, names are kept, and what was not let through is told apart."""
    made = gathered(
        connection(dest_names=("a.example",)),
        connection(ts=NOW + HOUR, dest_names=("b.example",), verdict="drop"),
        connection(ts=0, count=3, protocol="udp"),
        connection(ts=NOW - HOUR, process=Process(name="perl"), dest_ip="::ffff:192.0.2.1", verdict="accept"),
    )
    about = made.services[Service("unit", "nginx.service", None)]
    where = Destination("tcp", "192.0.2.1", 443)
    use = about.uses[where]
    assert (use.count, use.denied, use.names) == (2, 1, ("a.example", "b.example"))
    assert (use.first_ns, use.last_ns) == (NOW, NOW + HOUR)
    assert (about.count, about.programs, about.users) == (5, (("nginx", "/usr/sbin/nginx"),), ("www-data",))
    assert (made.count, made.denied, made.hooks) == (6, 1, {"ebpf": 6})
    assert (made.span.first_ns, made.span.last_ns) == (NOW - HOUR, NOW + HOUR)
    assert made.destinations()[where].first_ns == NOW - HOUR
    ports = made.ports()
    assert [(port.count, port.services, port.destinations) for port in ports.values()] == [
        (3, 2, 1),
        (3, 1, 1),
    ]
    assert list(ports) == [Port("tcp", 443), Port("udp", 443)]


def test_link_local_addresses_are_of_an_interface() -> None:
    """The same address is another host there; elsewhere the interface doesn't matter."""
    made = gathered(
        connection(dest_ip=ip, ifname=ifname)
        for ip in ("fe80::1", "192.0.2.1")
        for ifname in ("eth0", "eth1")
    )
    assert [where.address for where in made.destinations()] == ["fe80::1%eth0", "fe80::1%eth1", "192.0.2.1"]


def test_inbound_is_left_out_and_said() -> None:
    """The page is about what leaves."""
    losses = Losses()
    assert not gathered(connection(direction="in"), losses=losses).services
    assert losses.lines() == ["skipped: 1 report: not outbound"]


def test_limit() -> None:
    """Beyond it nothing grows, what is known goes on being counted, and the rest is lost aloud."""
    losses = Losses()
    made = Gathered(losses, limit=2)
    made.add(connection(dest_port=port) for port in (1, 2, 3, 1))
    made.add([connection(process=Process(name="late"))])
    assert [use.count for about in made.services.values() for use in about.uses.values()] == [2, 1]
    assert made.count == 5
    assert losses.snapshot() == {("lost", "report: beyond 2 pairs of service and destination"): 2}


def test_reasons_are_bounded() -> None:
    """A log may hold as many as it likes."""
    made = gathered(connection(attribution=f"reason {at}", hook=f"hook {at}") for at in range(500))
    for counter in (made.unattributed, made.hooks):
        assert len(counter) == model.MAX_REASONS + 1
        assert (counter.total(), counter[OTHER]) == (500, 400)


def test_names_and_programs_are_bounded() -> None:
    """Of a service or destination the first few are told."""
    made = gathered(
        connection(process=Process(name=f"p{at}", user=f"u{at}", unit="a.service"), dest_names=(f"n{at}",))
        for at in range(50)
    )
    (about,) = made.services.values()
    (use,) = about.uses.values()
    assert [len(known) for known in (about.programs, about.users, use.names)] == [model.MAX_NAMES] * 3


@given(st.lists(connections, max_size=8))
def test_everything_is_counted_once(some: list[Connection]) -> None:
    """Whatever is in a log: a connection is in a service, or lost, or skipped."""
    losses = Losses()
    made = gathered(some, losses=losses)
    outbound = [one for one in some if one.direction == "out"]
    assert sum(about.count for about in made.services.values()) == made.count
    assert made.count == sum(one.count for one in outbound)
    assert losses.total("skipped") == len(some) - len(outbound)
    assert sum(port.count for port in made.ports().values()) == made.count

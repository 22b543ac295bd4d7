# SPDX-License-Identifier: MIT
"""Rows of the page: ranked, bounded, and safe to show."""

from __future__ import annotations

import pytest

from pyegress.losses import Losses
from pyegress.record import Process
from pyegress.report.model import Destination, Gathered, Port, Service
from pyegress.report.tables import (
    Tables,
    cut,
    moment,
    port_text,
    ranked_ports,
    service_text,
    shown,
    tables,
    where_text,
)
from tests.report.records import HOUR, NOW, connection, gathered


def made(known: Gathered, losses: Losses | None = None, most: int = 10, redact: bool = True) -> Tables:
    """All tables."""
    return tables(known, ranked_ports(known), losses or Losses(), ["egress.log"], most, redact)


def test_totals() -> None:
    """What was observed, and how long nothing new came."""
    totals = made(
        gathered(
            connection(),
            connection(ts=NOW + HOUR, dest_port=80),
            connection(
                ts=NOW + 3 * HOUR, protocol="udp", dest_port=53, dest_ip="192.0.2.2", verdict="reject"
            ),
            connection(ts=NOW + 5 * HOUR),
        )
    ).totals
    assert (totals.since, totals.until, totals.span) == (moment(NOW), moment(NOW + 5 * HOUR), "5h")
    assert (totals.last_new, totals.quiet) == (moment(NOW + 3 * HOUR), "2h")
    assert (totals.connections, totals.denied, totals.services) == (4, 1, 1)
    assert (totals.destinations, totals.addresses, totals.ports, totals.hooks) == (3, 2, 3, "ebpf")


def test_without_times() -> None:
    """What isn't known is no date of 1970."""
    found = made(gathered(connection(ts=0)))
    assert (found.totals.since, found.totals.span, found.totals.quiet) == ("not known", "", "")
    assert not found.newest.rows
    assert found.services.rows[0].when == ("not known", "not known")


def test_first_rows_and_how_many_more() -> None:
    """The most used first, of destinations the newest; what isn't shown is counted."""
    found = made(
        gathered(
            *(
                connection(ts=NOW + at, dest_port=at, count=at, process=Process(unit=f"{at}.service"))
                for at in range(1, 31)
            ),
            *(connection(dest_port=at, process=Process(unit="all.service")) for at in range(1, 601)),
        ),
        most=4,
    )
    assert [row.name for row in found.services.rows] == [
        "all.service",
        *(f"{at}.service" for at in (30, 29, 28)),
    ]
    assert [found.services.more, found.services.rows[0].used.more] == [27, 596]
    assert len(found.services.rows[0].used.rows) == 4
    assert [row.port for row in found.ports.rows] == ["30", "29", "28", "27"]
    assert found.ports.more == 596
    assert found.newest.more == 596
    assert found.services.rows[0].ports.endswith(" and 597 more")


def test_newest_says_who() -> None:
    """A destination that came last, with all services that use it."""
    found = made(
        gathered(
            connection(),
            connection(ts=NOW + 1, dest_ip="192.0.2.9", dest_names=("new.example",)),
            connection(ts=NOW + 2, dest_ip="192.0.2.9", process=Process(name="perl")),
        )
    )
    row = found.newest.rows[0]
    assert (row.where, row.names, row.services) == ("192.0.2.9", "new.example", "nginx.service, perl")


def test_losses_come_by_gravity_and_say_whether_the_page_is_whole() -> None:
    """What is gone comes before what was left out by choice."""
    losses = Losses()
    losses.add("skipped", "by ignore-port:53", 900)
    assert made(gathered(connection()), losses).is_whole
    losses.add("unreadable", "x: lines\n", 2)
    losses.add("lost", "ebpf: ring buffer full", 5)
    found = made(gathered(connection()), losses)
    assert not found.is_whole
    assert [(row.reason, row.amount) for row in found.losses.rows] == [
        ("ebpf: ring buffer full", 5),
        ("x: lines\\n", 2),
        ("by ignore-port:53", 900),
    ]


@pytest.mark.parametrize(("redact", "command"), [(True, "sync --token=***"), (False, "sync --token=abc")])
def test_secrets(redact: bool, command: str) -> None:
    """As in all outputs."""
    known = gathered(connection(process=Process(name="sync", cmdline="sync --token=abc")))
    assert made(known, redact=redact).services.rows[0].command == command


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a\0b\x1b[31m", "a\\u0000b\\u001b[31m"),
        ("\u202egpj.exe\u200f", "\\u202egpj.exe\\u200f"),
        (b"\xff".decode(errors="surrogateescape"), "\\udcff"),
        ("שלום <b>", "שלום <b>"),
        ("a\nb\\", "a\\nb\\\\"),
    ],
)
def test_shown(text: str, safe: str) -> None:
    """Control characters, marks that turn text round, and bytes as all outputs write them."""
    assert shown(text) == safe


def test_long_text_is_cut() -> None:
    """And that can be seen."""
    assert shown("x" * 500) == "x" * 119 + "…"
    assert len(shown("\0" * 500)) == 120
    assert cut("abc", 3) == "abc"


def test_names_of_things() -> None:
    """As people write them."""
    assert where_text(Destination("tcp", "192.0.2.1", 443)) == "192.0.2.1:443/tcp"
    assert where_text(Destination("udp", "2001:db8::1", 53)) == "[2001:db8::1]:53/udp"
    assert where_text(Destination("1", "192.0.2.1", None)) == "192.0.2.1 protocol 1"
    assert port_text(Port("1", None)) == "-"
    assert port_text(Port("tcp\0", 65535)) == "65535"
    assert service_text(Service("container", "ab" * 32, None)) == "ab" * 6
    assert service_text(Service("unknown", "process gone", None)) == "unknown process: process gone"
    assert moment(0) == "not known"

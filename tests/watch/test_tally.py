# SPDX-License-Identifier: MIT
"""Counts, rates, order and bounded memory; on a clock of the test's own."""

from __future__ import annotations

import pytest

from pyegress.record import Connection, Process
from pyegress.watch.tally import WINDOW_S, By, Sort, Tally, View, name, service

SECOND = 1_000_000_000
BEGAN = 1000 * SECOND + 700_000_000
CURL = Process(pid=7, name="curl", exe="/usr/bin/curl", uid=0, user="root", unit="cron.service")


def to(address: str, process: Process | None = CURL, why: str | None = "kernel") -> Connection:
    """A connection."""
    return Connection(1, "ebpf", "tcp", 4, address, 443, process=process, attribution=why)


def looked_at(tally: Tally, now_ns: int, sort: Sort = "rate", most: int = 100) -> View:
    """With rows new for 5 s."""
    return tally.view(sort, most, now_ns, 5 * SECOND)


def addresses(view: View) -> list[str]:
    """Of the rows, in order."""
    return [row.latest.dest_ip for row in view.rows]


@pytest.mark.parametrize(
    ("by", "totals"), [("both", [3, 2, 1]), ("process", [5, 1]), ("destination", [4, 2])]
)
def test_what_a_row_is(by: By, totals: list[int]) -> None:
    """Two runs of the same program are one process, and what differs is that of the newest."""
    tally = Tally(by, 100, BEGAN)
    again = Process(pid=8, name="curl", exe="/usr/bin/curl", uid=0, user="root", unit="cron.service")
    other = Process(pid=9, name="curl", exe="/usr/bin/curl", uid=1, user="x", unit="cron.service")
    tally.add([to("192.0.2.1"), to("192.0.2.2"), to("192.0.2.2", again), to("192.0.2.1", other)], BEGAN)
    tally.add([to("192.0.2.1", again)] * 2, BEGAN)
    view = looked_at(tally, BEGAN, "count")
    assert [row.total for row in view.rows] == totals
    assert view.connections == tally.connections == 6
    assert by == "destination" or {row.latest.process.pid for row in view.rows if row.latest.process} == {
        8,
        9,
    }


def test_unknown_processes_are_apart_by_reason() -> None:
    """None of them is another's row."""
    tally = Tally("process", 100, BEGAN)
    gone, ambiguous = to("192.0.2.1", None, "process gone"), to("192.0.2.1", None, "ambiguous")
    owner = to("192.0.2.1", Process(uid=5, user="x"), "process gone")
    tally.add([gone, gone, ambiguous, owner], BEGAN)
    assert sorted(row.total for row in looked_at(tally, BEGAN).rows) == [1, 1, 2]


def test_rate_is_of_the_last_seconds() -> None:
    """So many in the window, through it; before that is full, in the time that there was; then none again."""
    tally = Tally("both", 100, BEGAN)
    for second in range(30):
        tally.add([to("192.0.2.1")] * 4, BEGAN + second * SECOND)
        view = looked_at(tally, BEGAN + second * SECOND)
        assert (view.rows[0].per_s, view.per_s) == (4, 4)
    last = BEGAN + 29 * SECOND
    assert looked_at(tally, last + 5 * SECOND).per_s == 4 * (WINDOW_S - 5) / WINDOW_S
    view = looked_at(tally, last + WINDOW_S * SECOND)
    assert (view.rows[0].per_s, view.per_s, view.rows[0].total, view.running_s) == (0, 0, 120, 39)
    tally.add([to("192.0.2.1")], last + 1000 * SECOND)
    assert looked_at(tally, last + 1000 * SECOND).rows[0].per_s == 1 / WINDOW_S


def test_look_that_began_before_a_count_is_no_error() -> None:
    """Both threads ask the clock before they wait for each other."""
    tally = Tally("both", 100, BEGAN)
    for second in range(20):
        tally.add([to("192.0.2.1")], BEGAN + second * SECOND)
    assert looked_at(tally, BEGAN + 18 * SECOND).per_s == 1


def test_new_is_what_was_first_seen_lately() -> None:
    """A row grows old, however often it is seen."""
    tally = Tally("destination", 100, BEGAN)
    tally.add([to("192.0.2.1")], BEGAN)
    tally.add([to("192.0.2.1"), to("192.0.2.2")], BEGAN + 5 * SECOND)
    view = looked_at(tally, BEGAN + 5 * SECOND)
    assert {row.latest.dest_ip: row.is_new for row in view.rows} == {"192.0.2.1": False, "192.0.2.2": True}


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("rate", ["192.0.2.3", "192.0.2.2", "192.0.2.1"]),
        ("count", ["192.0.2.1", "192.0.2.3", "192.0.2.2"]),
        ("new", ["192.0.2.2", "192.0.2.1", "192.0.2.3"]),
        ("name", ["192.0.2.2", "192.0.2.3", "192.0.2.1"]),
    ],
)
def test_order(sort: Sort, order: list[str]) -> None:
    """Each with its own first."""
    tally = Tally("both", 100, BEGAN)
    a, b, c = (Process(name=text) for text in ("a", "B", "c"))
    tally.add([to("192.0.2.3", b)], BEGAN)
    tally.add([to("192.0.2.1", c)] * 9, BEGAN + SECOND)
    later = BEGAN + 20 * SECOND
    tally.add([to("192.0.2.2", a)], later)
    tally.add([to("192.0.2.3", b)] * 3, later)
    assert addresses(looked_at(tally, later, sort)) == order
    assert addresses(looked_at(tally, later, sort, most=1)) == order[:1]


def test_rows_not_seen_for_longest_make_room() -> None:
    """Memory is bounded; what is let go is counted, and what all made together is still known."""
    tally = Tally("both", 3, BEGAN)
    tally.add([to("192.0.2.1"), to("192.0.2.2"), to("192.0.2.3"), to("192.0.2.1")], BEGAN)
    tally.add([to("192.0.2.4"), to("192.0.2.5")], BEGAN)
    view = looked_at(tally, BEGAN)
    assert sorted(addresses(view)) == ["192.0.2.1", "192.0.2.4", "192.0.2.5"]
    assert (view.known, view.evicted, view.connections) == (3, 2, 6)


@pytest.mark.parametrize(
    ("process", "found"),
    [
        (None, None),
        (Process(unit="user@5.service", user_unit="a.service"), "a.service"),
        (Process(unit="docker.service", container="0123456789abcdef"), "0123456789ab"),
        (Process(unit="docker.service", container="0123456789abcdef", container_name="web"), "web"),
    ],
)
def test_service(process: Process | None, found: str | None) -> None:
    """The nearest: container, user's unit, unit."""
    assert service(process) == found


def test_name_of_a_process_without_one_is_its_programs() -> None:
    """Rather than nothing."""
    assert name(to("192.0.2.1", Process(exe="/usr/bin/x"))) == "x"
    assert name(to("192.0.2.1", Process(comm="y", exe="/usr/bin/x"))) == "y"
    assert name(to("192.0.2.1", Process(pid=5))) is None

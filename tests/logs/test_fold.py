# SPDX-License-Identifier: MIT
"""Connections are folded without mixing up whose they are, in bounded memory."""

from __future__ import annotations

import msgspec

from pyegress.logs.fold import Fold
from pyegress.record import Connection, Process


def connection(process: Process | None = None, port: int = 443, ts: int = 1, count: int = 1) -> Connection:
    return Connection(ts, "ebpf", "tcp", 4, "192.0.2.1", port, process=process, count=count)


def test_counts_and_times() -> None:
    fold = Fold(True, 10)
    assert (
        fold.add([connection(ts=5, count=2), connection(ts=3), connection(ts=0), connection(ts=2**70)]) == 0
    )
    assert (len(fold), fold.records) == (1, 4)
    (row,) = fold.take()
    assert (row.records, row.count, row.first_ns, row.last_ns) == (4, 5, 3, 5)
    assert len(fold) == fold.records == 0


def test_why_there_is_no_name_tells_nothing_apart() -> None:
    fold = Fold(True, 10)
    one = connection()
    fold.add([one, msgspec.structs.replace(one, dest_names_missing="no-answer")])
    assert len(fold) == 1


def test_what_has_no_room_is_told() -> None:
    fold = Fold(True, 2)
    assert fold.add([connection(port=port) for port in (1, 2, 3, 1, 4)]) == 2
    assert [row.records for row in fold.take()] == [2, 1]


def test_processes_that_come_and_go_are_never_mixed_up() -> None:
    fold = Fold(True, 50_000)
    for number in range(20_000):
        # Each dies at once, so that ids repeat.
        fold.add([connection(Process(pid=number, name=f"p{number}"))])
    rows = fold.take()
    assert [row.process.name if row.process else None for row in rows] == [f"p{n}" for n in range(20_000)]
    assert len({row.key for row in rows}) == 20_000
    assert len(fold._programs) <= 8192


def test_keys_are_the_same_in_another_run() -> None:
    keys = []
    for _ in range(2):
        fold = Fold(True, 2)
        fold.add([connection(Process(pid=1, name="curl\udcff"))])
        keys += [row.key for row in fold.take()]
    assert keys[0] == keys[1]

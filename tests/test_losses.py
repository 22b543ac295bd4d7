# SPDX-License-Identifier: MIT
"""Losses: each counted once, shown where it is not 0."""

import sys
from threading import Thread

from pyegress.losses import Losses


def test_counts_add_up_by_stage_and_reason() -> None:
    """The same reason at another stage is another counter."""
    losses = Losses()
    losses.add("lost", "ring")
    losses.add("lost", "ring", 2)
    losses.add("skipped", "ring", 5)
    assert losses.snapshot() == {("lost", "ring"): 3, ("skipped", "ring"): 5}


def test_put_replaces() -> None:
    """A counter that the kernel keeps is set, not added to."""
    losses = Losses()
    losses.put("lost", "ring", 3)
    losses.put("lost", "ring", 4)
    assert losses.snapshot() == {("lost", "ring"): 4}


def test_kept_counters_go_on_from_zero() -> None:
    """What a source has put stays when it counts anew; others are left alone."""
    losses = Losses()
    losses.put("skipped", "by port", 3, "one")
    losses.put("skipped", "by port", 5, "two")
    losses.keep("one")
    losses.put("skipped", "by port", 1, "one")
    losses.put("skipped", "by port", 6, "two")
    assert losses.snapshot() == {("skipped", "by port"): 3 + 1 + 6}


def test_zero_is_not_shown() -> None:
    """A counter that stayed 0, or went back to it, is left out."""
    losses = Losses()
    losses.add("lost", "a", 0)
    losses.put("lost", "b", 0)
    losses.put("lost", "c", 1)
    losses.put("lost", "c", 0)
    assert losses.snapshot() == {}
    assert losses.lines() == []


def test_total_is_of_one_stage() -> None:
    """Other stages don't count, and a stage without counters is 0."""
    losses = Losses()
    losses.add("lost", "a", 1)
    losses.add("lost", "b", 2)
    losses.add("skipped", "a", 4)
    assert losses.total("lost") == 3
    assert losses.total("unattributed") == 0


def test_lines_are_in_stage_order() -> None:
    """Lines are sorted, whatever happened first."""
    losses = Losses()
    losses.add("skipped", "by port", 2)
    losses.add("lost", "queue full", 3)
    losses.add("lost", "a thing")
    assert losses.lines() == ["lost: 1 a thing", "lost: 3 queue full", "skipped: 2 by port"]


def test_snapshot_is_a_copy() -> None:
    """What was taken does not change afterwards."""
    losses = Losses()
    losses.add("lost", "a")
    taken = losses.snapshot()
    losses.add("lost", "a")
    assert taken == {("lost", "a"): 1}


def test_threads_lose_no_count() -> None:
    """Every output's thread adds to the same counters."""
    losses = Losses()

    def add() -> None:
        for _ in range(5000):
            losses.add("lost", "a")

    threads = [Thread(target=add) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert losses.total("lost") == 40_000


def test_sources_of_one_counter_add_up() -> None:
    """What two inputs keep is shown as one sum, with what was counted here."""
    losses = Losses()
    losses.put("skipped", "by rule", 3, "ebpf")
    losses.put("skipped", "by rule", 4, "nflog")
    losses.put("skipped", "by rule", 5, "ebpf")
    losses.add("skipped", "by rule")
    assert losses.snapshot() == {("skipped", "by rule"): 10}

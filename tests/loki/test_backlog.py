# SPDX-License-Identifier: MIT
"""What waits is bounded, in order, and what does not fit is counted."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path
from threading import Thread

from pyegress.loki.backlog import Backlog
from pyegress.loki.batcher import Sealed
from pyegress.loki.spool import Spool, Spooled

BODIES = [gzip.compress(b"%d" % number, mtime=0) for number in range(10)]
SIZE = len(BODIES[0])


class Said:
    """What a backlog counts and says."""

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self.notices: list[str] = []

    def lose(self, reason: str, count: int) -> None:
        self.lost[reason] += count


def backlog(memory_bytes: int, spool: Spool | None = None) -> tuple[Backlog, Said]:
    """One, and what it says."""
    said = Said()
    return Backlog(memory_bytes, spool, said.lose, said.notices.append), said


def taken(made: Backlog) -> list[bytes | None]:
    """All that waits, delivered one by one."""
    made.end()
    found = []
    while (entry := made.first()) is not None:
        found.append(made.body(entry))
        made.done()
    return found


def test_memory_is_bounded() -> None:
    """The newest does not fit; there is room again after a delivery."""
    made, said = backlog(3 * SIZE)
    for body in BODIES[:5]:
        made.put(Sealed(body, 10))
    assert said.lost == {"no room for what waits (raise queue, or spool-size)": 20}
    assert made.waiting() == (30, 0)
    made.done()
    made.put(Sealed(BODIES[5], 10))
    assert taken(made) == [BODIES[1], BODIES[2], BODIES[5]]
    assert sum(said.lost.values()) == 20


def test_one_batch_always_fits() -> None:
    """However large it is, or nothing would ever be delivered."""
    made, said = backlog(1)
    made.put(Sealed(BODIES[0], 1))
    assert taken(made) == [BODIES[0]]
    assert not said.lost


def test_first_stays_until_it_is_done() -> None:
    """A batch that is being sent counts as waiting."""
    made, _ = backlog(1000)
    made.put(Sealed(BODIES[0], 3))
    assert made.first() == made.first() == Sealed(BODIES[0], 3)
    assert made.waiting() == (3, 0)


def test_first_waits() -> None:
    """For a batch or the end."""
    made, _ = backlog(1000)
    found: list[object] = []
    thread = Thread(target=lambda: found.append(made.first()))
    thread.start()
    made.put(Sealed(BODIES[0], 1))
    thread.join(30)
    assert found == [Sealed(BODIES[0], 1)]
    made.done()
    thread = Thread(target=lambda: found.append(made.first()))
    thread.start()
    made.end()
    thread.join(30)
    assert found[1:] == [None]


def test_spool_keeps_everything_until_done(tmp_path: Path) -> None:
    """Nothing of it in memory; what is done is removed."""
    spool = Spool(str(tmp_path), 1 << 20)
    made, said = backlog(1, spool)
    for body in BODIES:
        made.put(Sealed(body, 2))
    assert made.waiting() == (0, 20)
    assert isinstance(made.first(), Spooled)
    assert taken(made) == BODIES
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not said.lost
    spool.close()


def test_what_an_earlier_run_left_goes_first(tmp_path: Path) -> None:
    """Loki refuses what is much older than the newest."""
    spool = Spool(str(tmp_path), 1 << 20)
    made, _ = backlog(1, spool)
    made.put(Sealed(BODIES[0], 1))
    spool.close()
    spool = Spool(str(tmp_path), 1 << 20)
    made, _ = backlog(1, spool)
    made.put(Sealed(BODIES[1], 1))
    assert taken(made) == BODIES[:2]
    spool.close()


def test_full_spool(tmp_path: Path) -> None:
    """Then memory takes what it can; the rest is lost; order is kept."""
    spool = Spool(str(tmp_path), 2 * SIZE)
    made, said = backlog(SIZE, spool)
    for body in BODIES[:5]:
        made.put(Sealed(body, 1))
    assert made.waiting() == (1, 2)
    assert said.lost.total() == 2
    assert taken(made) == BODIES[:3]
    spool.close()


def test_spool_that_cannot_be_written(tmp_path: Path) -> None:
    """Said once; memory takes what it can."""
    spool = Spool(str(tmp_path / "s"), 1 << 20)
    shutil.rmtree(tmp_path / "s")
    made, said = backlog(1000, spool)
    for body in BODIES[:3]:
        made.put(Sealed(body, 1))
    assert said.notices == [
        f"loki: cannot write to spool {tmp_path}/s: No such file or directory; what it can't take waits in memory"
    ]
    assert taken(made) == BODIES[:3]
    spool.close()


def test_torn_and_missing_files(tmp_path: Path) -> None:
    """Named and counted; the others are delivered."""
    spool = Spool(str(tmp_path), 1 << 20)
    made, said = backlog(1, spool)
    for body in BODIES[:3]:
        made.put(Sealed(body, 5))
    names = sorted(path.name for path in tmp_path.glob("*.gz"))
    (tmp_path / names[0]).write_bytes(b"")
    (tmp_path / names[1]).unlink()
    assert taken(made) == [None, None, BODIES[2]]
    assert said.lost == {"files of the spool that could not be read": 10}
    assert said.notices == [
        f"loki: {names[0]} in spool {tmp_path} is lost: torn",
        f"loki: {names[1]} in spool {tmp_path} is lost: No such file or directory",
    ]
    spool.close()


def test_who_can_wait_loses_nothing() -> None:
    """There is room again after a delivery; what came of a single wait is taken whatever its size."""
    said = Said()
    made = Backlog(2 * SIZE, None, said.lose, said.notices.append, waits=True)
    for body in BODIES[:3]:
        made.put(Sealed(body, 10))
    assert not made.await_room(0)
    made.done()
    assert not made.await_room(0)

    def put_in_time() -> None:
        assert made.await_room(60)
        made.put(Sealed(BODIES[3], 10))

    waiting = Thread(target=put_in_time, daemon=True)
    waiting.start()
    made.done()
    waiting.join(60)
    assert taken(made) == BODIES[2:4]
    assert not said.lost


def test_nobody_else_is_to_wait() -> None:
    """A live capture doesn't."""
    made, _ = backlog(SIZE)
    made.put(Sealed(BODIES[0], 10))
    assert made.await_room(0)

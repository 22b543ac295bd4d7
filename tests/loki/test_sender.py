# SPDX-License-Identifier: MIT
"""A batch is tried again until it is delivered or refused; at exit there is an end to that."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import pytest

from pyegress.loki.backlog import Backlog
from pyegress.loki.batcher import Sealed
from pyegress.loki.sender import Sender
from pyegress.loki.spool import Spool
from pyegress.loki.transport import Answer, Verdict
from pyegress.loki.waits import MOST_WAIT_S
from tests.logserver import wait_until
from tests.loki.test_backlog import BODIES, Said

FINE = Answer(Verdict.DELIVERED)
DOWN = Answer(Verdict.FAILED, "Connection refused")
PATIENCE_S = 30.0


class Scripted:
    """A server that gives these answers and then FINE."""

    def __init__(self, *answers: Answer | Exception | Callable[[], Answer]) -> None:
        self.answers = list(answers)
        self.bodies: SimpleQueue[bytes] = SimpleQueue()
        self.timeouts: list[float] = []

    def push(self, body: bytes, timeout_s: float) -> Answer:
        self.bodies.put(body)
        self.timeouts.append(timeout_s)
        answer = self.answers.pop(0) if self.answers else FINE
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else answer()

    def sent(self) -> list[bytes]:
        return [self.bodies.get() for _ in range(self.bodies.qsize())]


class Rig:
    """A sender with its backlog."""

    def __init__(self, server: Scripted, spool: Spool | None = None) -> None:
        self.said = Said()
        self.server = server
        self.backlog = Backlog(1 << 20, spool, self.said.lose, self.said.notices.append)
        self.sender = Sender(
            self.backlog, server.push, 5.0, self.said.lose, self.said.notices.append, first_wait_s=0.001
        )

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.backlog.put(Sealed(body, 10))

    def finish(self, within_s: float = PATIENCE_S, waits: bool = False) -> None:
        self.backlog.end()
        self.sender.finish(within_s, lambda: None, waits)


def test_in_order() -> None:
    """Each once."""
    rig = Rig(Scripted())
    rig.put(*BODIES)
    rig.sender.start()
    rig.finish()
    assert rig.server.sent() == BODIES
    assert rig.backlog.waiting() == (0, 0)
    assert not rig.said.notices


def test_failures_are_tried_again() -> None:
    """The same batch, before any other; said once, and when it is over."""
    rig = Rig(Scripted(FINE, *[DOWN] * 6))
    rig.sender.start()
    rig.put(*BODIES[:3])
    wait_until(lambda: rig.backlog.waiting() == (0, 0))
    rig.finish()
    assert rig.server.sent() == [BODIES[0], *[BODIES[1]] * 7, BODIES[2]]
    assert rig.said.notices == [
        "loki: cannot deliver: Connection refused; kept, and tried again",
        "loki: it takes batches again",
    ]
    assert not rig.said.lost


def test_one_failure_is_not_said() -> None:
    """It is how a kept connection ends."""
    rig = Rig(Scripted(FINE, DOWN))
    rig.sender.start()
    rig.put(*BODIES[:2])
    wait_until(lambda: rig.backlog.waiting() == (0, 0))
    rig.finish()
    assert rig.server.sent() == [BODIES[0], BODIES[1], BODIES[1]]
    assert not rig.said.notices


def test_refused_is_dropped() -> None:
    """Counted each time, said once in a while; the next goes on."""
    rig = Rig(Scripted(*[Answer(Verdict.REFUSED, "it answered 400 Bad Request: no")] * 2))
    rig.put(*BODIES[:3])
    rig.sender.start()
    rig.finish()
    assert rig.server.sent() == BODIES[:3]
    assert rig.said.lost == {"refused by Loki": 20}
    assert rig.said.notices == ["loki: a batch of 10 records is dropped: it answered 400 Bad Request: no"]


def waits(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> list[float]:
    """How long it would have waited after each answer."""
    rig = Rig(Scripted(*answers))
    found: list[float] = []

    def wait(seconds: float) -> bool:
        found.append(seconds)
        return False

    monkeypatch.setattr(rig.sender._finishing, "wait", wait)
    rig.put(BODIES[0])
    rig.sender.start()
    wait_until(lambda: rig.backlog.waiting() == (0, 0))
    rig.finish()
    return found


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time up to a bound, less up to a half by chance."""
    found = waits(monkeypatch, *[DOWN] * 40)
    assert len(found) == 40
    for number, seconds in enumerate(found):
        most = min(0.001 * 2.0 ** min(number, 16), MOST_WAIT_S)
        assert most / 2 <= seconds <= most
    assert max(found) > MOST_WAIT_S / 2
    assert len(set(found)) > 30


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is longer than the wait would be."""
    found = waits(monkeypatch, Answer(Verdict.FAILED, "429", 1234.0), DOWN)
    assert found[0] == 1234.0
    assert found[1] < 1


def test_end_interrupts_a_wait() -> None:
    """It tries once more at once, and has success here."""
    rig = Rig(Scripted(Answer(Verdict.FAILED, "429", 3000.0)))
    rig.put(BODIES[0])
    rig.sender.start()
    assert rig.server.bodies.get(timeout=PATIENCE_S) == BODIES[0]
    rig.finish()
    assert rig.server.sent() == [BODIES[0]]
    assert rig.backlog.waiting() == (0, 0)


def test_end_tries_until_its_time_is_over() -> None:
    """What is in memory has no other chance."""
    rig = Rig(Scripted(*[DOWN] * 100_000))
    rig.put(*BODIES[:2])
    rig.sender.start()
    rig.finish(0.3)
    assert set(rig.server.sent()) == {BODIES[0]}
    assert rig.backlog.waiting() == (20, 0)


def test_end_with_a_spool_gives_up_at_once(tmp_path: Path) -> None:
    """The next run has it: tried again once, as the kept connection may have been closed."""
    spool = Spool(str(tmp_path), 1 << 20)
    rig = Rig(Scripted(*[DOWN] * 100_000), spool)
    rig.put(*BODIES[:2])
    rig.backlog.end()
    rig.sender._finishing.set()
    rig.sender.start()
    rig.finish()
    assert rig.server.sent() == [BODIES[0]] * 2
    assert rig.backlog.waiting() == (0, 20)
    spool.close()


def test_end_does_not_wait_in_vain() -> None:
    """Where the server asks for more time than there is."""
    rig = Rig(Scripted(*[Answer(Verdict.FAILED, "429", 100.0)] * 5))
    rig.put(BODIES[0])
    rig.backlog.end()
    rig.sender._finishing.set()
    rig.sender.start()
    rig.finish()
    assert len(rig.server.sent()) == 2
    assert rig.backlog.waiting() == (10, 0)


def test_hanging_request_is_left_behind() -> None:
    """What it does later changes nothing."""
    release = Event()

    def hang() -> Answer:
        release.wait()
        return FINE

    rig = Rig(Scripted(hang))
    rig.put(*BODIES[:2])
    rig.sender.start()
    assert rig.server.bodies.get(timeout=PATIENCE_S) == BODIES[0]
    rig.finish(0.1)
    assert rig.backlog.waiting() == (20, 0)
    release.set()
    rig.sender._thread.join(PATIENCE_S)
    assert not rig.sender._thread.is_alive()
    assert rig.backlog.waiting() == (20, 0)
    assert rig.server.sent() == []


def test_unexpected_error() -> None:
    """It ends the thread and is kept for who asks."""
    rig = Rig(Scripted(RuntimeError("oh")))
    rig.put(BODIES[0])
    rig.sender.start()
    rig.finish()
    assert str(rig.sender.error) == "oh"
    assert rig.backlog.waiting() == (10, 0)


@pytest.mark.parametrize("waits", [False, True])
def test_end_of_a_replay_lasts_as_long_as_something_is_delivered(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """Each delivery takes a time that all together don't have."""
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])

    def slow() -> Answer:
        assert rig.sender._finishing.wait(PATIENCE_S)
        now_s[0] += 6.0
        return FINE

    rig = Rig(Scripted(*[slow] * len(BODIES)))
    rig.put(*BODIES)
    rig.sender.start()
    rig.finish(10.0, waits)
    rig.sender._thread.join(PATIENCE_S)
    assert (rig.backlog.waiting()[0] == 0) is waits

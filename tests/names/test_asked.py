# SPDX-License-Identifier: MIT
"""Questions: only who was asked is answered by."""

from __future__ import annotations

import pytest

from pyegress.names.asked import PATIENCE_NS, Asked
from pyegress.names.message import Question
from pyegress.names.segment import TCP, Ends
from tests.names.wire import ENDS

QUESTION = Question(7, "www.example", 1)


def test_answer_to_a_question() -> None:
    """Says who asked, once for each time it was asked."""
    asked = Asked()
    asked.ask(ENDS, QUESTION, 0, 42)
    asked.ask(ENDS, QUESTION, 1, 42)
    assert [asked.answer(ENDS, QUESTION, 2) for _ in range(3)] == [42, 42, None]
    assert len(asked) == 0


@pytest.mark.parametrize(
    ("ends", "question"),
    [
        (ENDS._replace(client_port=40001), QUESTION),
        (ENDS._replace(server=ENDS.client), QUESTION),
        (ENDS._replace(socket=8), QUESTION),
        (ENDS._replace(protocol=TCP), QUESTION),
        (ENDS, QUESTION._replace(id=8)),
        (ENDS, QUESTION._replace(name="bank.example")),
        (ENDS, QUESTION._replace(type=28)),
    ],
)
def test_forged(ends: Ends, question: Question) -> None:
    """What differs in anything answers nothing, and takes nothing away."""
    asked = Asked()
    asked.ask(ENDS, QUESTION, 0)
    assert asked.answer(ends, question, 0) is None
    assert asked.answer(ENDS, QUESTION, 0) == 0


def test_too_late() -> None:
    """Nobody waits for so long."""
    asked = Asked()
    asked.ask(ENDS, QUESTION, 0)
    assert asked.answer(ENDS, QUESTION, PATIENCE_NS) is None
    assert len(asked) == 0


def test_bounded() -> None:
    """The oldest is forgotten, and counted where it still waited."""
    asked = Asked(most=2)
    for number, now_ns in ((1, 0), (2, PATIENCE_NS), (3, PATIENCE_NS), (4, PATIENCE_NS)):
        asked.ask(ENDS, QUESTION._replace(id=number), now_ns)
    assert (len(asked), asked.forgotten) == (2, 1)

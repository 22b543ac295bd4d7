# SPDX-License-Identifier: MIT
"""Segments: a question and its answer have the same ends."""

from __future__ import annotations

from tests.names.wire import ENDS, asks, question, tells


def test_question_and_answer_meet() -> None:
    """Ends can be a key, and others are other."""
    wire = question("www.example.")
    assert asks(wire).ends == tells(wire).ends
    assert len({ENDS, ENDS._replace(socket=8), ENDS._replace(client_port=1)}) == 3

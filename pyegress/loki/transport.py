# SPDX-License-Identifier: MIT
"""Pushes, and what the answers to them mean for a batch."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyegress.loki.client import Client, Unanswered, retry_after_s, said, text_of
from pyegress.loki.endpoint import PUSH

_REFUSALS = (400, 413, 422)
"""Answers about this very batch, which would be the same another time."""
_ANSWER_BYTES = 65536
_PUSHED = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


class Verdict(enum.Enum):
    """What became of a batch."""

    DELIVERED = enum.auto()
    REFUSED = enum.auto()
    FAILED = enum.auto()
    """Not delivered as far as is known: it can be tried again."""


class Answer(NamedTuple):
    """The verdict, why, and how long the server asked to wait, in seconds."""

    verdict: Verdict
    reason: str = ""
    retry_after_s: float = 0.0


class Transport:
    """For one thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next: Client | None = None

    def go_on_with(self, client: Client) -> None:
        """Use another one from the next push on; from any thread."""
        self._next = client

    def push(self, body: bytes, timeout_s: float) -> Answer:
        """Send a batch; every failure is an answer. The timeout is for each step: connecting, sending, answering."""
        other, self._next = self._next, None
        if other is not None:
            self._client.close()
            self._client = other
        try:
            response = self._client.ask("POST", PUSH, timeout_s, body, _PUSHED)
        except Unanswered as why:
            return Answer(Verdict.FAILED, str(why))
        # From here on the answer counts, whether or not all of its text comes.
        try:
            text = text_of(response, _ANSWER_BYTES, timeout_s)
        except Unanswered:
            text = b""
        if 200 <= response.status < 300:
            return Answer(Verdict.DELIVERED)
        reason = said(response, text)
        if response.status in _REFUSALS:
            return Answer(Verdict.REFUSED, reason)
        return Answer(Verdict.FAILED, reason, retry_after_s(response))

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

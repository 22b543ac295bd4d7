# SPDX-License-Identifier: MIT
"""Questions to Loki's HTTP API, asked again until they are answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, Raw

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.loki.client import Client, Unanswered, retry_after_s, said, text_of
from pyegress.loki.options import QueryOptions
from pyegress.loki.waits import FIRST_WAIT_S, growing

QUERY_RANGE = "/loki/api/v1/query_range"
SERIES = "/loki/api/v1/series"
ANSWER_BYTES = 64 << 20
"""What a page may have. It is some 8 MiB with 5000 records; arguments and names at their worst make ten times that."""
_TOO_MUCH = (b"max_entries_limit", b"larger than max", b"time range exceeds")
"""In errors of Loki and of gRPC within it."""
_WAY_ON = {
    400: "is --query right?",
    401: "give --user and --pass-file",
    403: "give a user who may read",
    404: "is that where Loki answers queries? VictoriaLogs only takes its pushes",
}

_T = TypeVar("_T")


class TooMuch(Exception):
    """A smaller page, or a shorter span, could be answered; its text says why."""


class Entry(NamedTuple):
    """A line as Loki has it."""

    ts: int
    """ns since the epoch: when it was pushed for, which of a record without a time is when it was pushed."""
    labels: tuple[tuple[str, str], ...]
    """Those of its stream and its structured metadata, sorted."""
    line: str


class _Value(msgspec.Struct, array_like=True, gc=False):
    ts: Annotated[str, Meta(pattern="^[0-9]{1,19}$")]
    line: str


class _Stream(msgspec.Struct):
    stream: dict[str, str]
    values: list[_Value]


class _Result(msgspec.Struct, rename="camel"):
    result_type: str
    result: Raw


class _Range(msgspec.Struct):
    data: _Result


class _Series(msgspec.Struct):
    data: list[dict[str, str]]


class Query:
    """For one thread."""

    def __init__(
        self, options: QueryOptions, notice: Callable[[str], None], first_wait_s: float = FIRST_WAIT_S
    ) -> None:
        """OutputError where a password is missing, or a file can't be used; nothing is asked yet."""
        self._client = Client(options)
        self._timeout_s = options.timeout / 1e9
        self._give_up_s = options.give_up / 1e9
        self._notice = notice
        self._first_wait_s = first_wait_s

    @property
    def name(self) -> str:
        """How messages call what is asked."""
        return f"Loki at {self._client.url}"

    def entries(self, query: str, start_ns: int, end_ns: int, limit: int) -> list[Entry]:
        """The first entries from `start_ns` on and before `end_ns`, by time. Raises TooMuch and InputError."""
        words = {
            "query": query,
            "start": str(start_ns),
            "end": str(end_ns),
            "limit": str(limit),
            "direction": "forward",
        }
        return self._answer(QUERY_RANGE, words, _entries)

    def series(self, selector: str, start_ns: int, end_ns: int) -> list[dict[str, str]]:
        """The labels of the streams that have something in that time. Raises TooMuch and InputError."""
        words = {"match[]": selector, "start": str(start_ns), "end": str(end_ns)}
        return self._answer(SERIES, words, lambda text: msgspec.json.decode(text, type=_Series).data)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _answer(self, path: str, words: dict[str, str], read: Callable[[bytes], _T]) -> _T:
        last = time.monotonic() + self._give_up_s
        failures = 0
        while True:
            answer = self._once(path, words, read)
            if not isinstance(answer, _Trouble):
                if failures > 1:
                    self._notice("loki: it answers again")
                return answer
            failures += 1
            wait_s = growing(failures, answer.wait_s, self._first_wait_s)
            if time.monotonic() + wait_s > last:
                raise InputError(f"{self.name}: {answer.reason}; tried {failures} times, try later")
            if failures == 2:
                self._notice(f"loki: {answer.reason}; tried again")
            time.sleep(wait_s)

    def _once(self, path: str, words: dict[str, str], read: Callable[[bytes], _T]) -> _T | _Trouble:
        accepted = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        try:
            response = self._client.ask(
                "GET", f"{path}?{urlencode(words)}", self._timeout_s, headers=accepted
            )
            text = text_of(response, ANSWER_BYTES + 1, self._timeout_s)
        except Unanswered as why:
            return _Trouble(str(why))
        if len(text) > ANSWER_BYTES:
            raise TooMuch(f"an answer of more than {ANSWER_BYTES >> 20} MiB")
        if response.status != 200:
            return self._refused(response.status, said(response, text), text, retry_after_s(response))
        try:
            return read(text)
        except msgspec.ValidationError as error:
            raise InputError(f"{self.name}: no answer of Loki's: {display(str(error))}") from None
        except msgspec.DecodeError:
            # Without a length nobody knows that the rest is missing.
            if text[:1] in (b"{", b""):
                return _Trouble("its answer ends early")
            raise InputError(f"{self.name}: what answers there is not Loki; is the address right?") from None

    def _refused(self, status: int, reason: str, text: bytes, wait_s: float) -> _Trouble:
        """Raises where it would be the same another time."""
        if any(words in text for words in _TOO_MUCH):
            raise TooMuch(reason)
        if status in (408, 429) or status >= 500:
            return _Trouble(reason, wait_s)
        way_on = _WAY_ON.get(status)
        raise InputError(f"{self.name}: {reason}" + (f"; {way_on}" if way_on else ""))


class _Trouble(NamedTuple):
    """Why there is no answer yet, and how long the server asked to wait, in seconds."""

    reason: str
    wait_s: float = 0.0


def _entries(text: bytes) -> list[Entry]:
    found = msgspec.json.decode(text, type=_Range).data
    if found.result_type != "streams":
        raise InputError('--query: gives numbers; ask for records, such as {job="pyegress"}')
    entries = []
    for stream in msgspec.json.decode(found.result, type=list[_Stream]):
        labels = tuple(sorted(stream.stream.items()))
        entries += [Entry(int(value.ts), labels, value.line) for value in stream.values]
    entries.sort(key=lambda entry: entry.ts)
    return entries

# SPDX-License-Identifier: MIT
"""DNS as it passes -> who learns from it: an answer counts where its question was seen, whoever asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import Protocol

from pyegress.decode.address import Addresses
from pyegress.names.asked import Asked
from pyegress.names.message import Answer, MalformedError, read
from pyegress.names.segment import TCP, Segment
from pyegress.names.stream import Streams


class Learner(Protocol):
    """Who is told what answers say, such as the memory of names."""

    def learn_each(
        self,
        addresses: Iterable[tuple[str, int]],
        names: Sequence[str],
        source: str,
        now_ns: int,
        asker: int = 0,
    ) -> None:
        """These names lead to these addresses, each for so many seconds."""


class ObservedDns:
    """For one thread."""

    def __init__(self, learner: Learner, servers: Container[bytes] | None = None) -> None:
        """`servers`: 16 bytes of address of those that are believed; None: all."""
        self.unused: Counter[str] = Counter()
        """Messages by why nothing was learned from them."""
        self.answers = 0
        """Those that were used."""
        self.asked = Asked()
        self.streams = Streams()
        self._learner = learner
        self._servers = servers
        self._addresses = Addresses()

    def take(self, segments: Iterable[Segment]) -> None:
        """Learn from what passed."""
        for segment in segments:
            if segment.ends.protocol == TCP:
                for message in self.streams.messages(segment):
                    self._message(segment, message)
            elif segment.is_cut:
                self.unused["too long for a datagram"] += 1
            else:
                self._message(segment, segment.payload)

    def _message(self, segment: Segment, wire: bytes) -> None:
        try:
            found = read(wire)
        except MalformedError as error:
            self.unused[str(error)] += 1
            return
        if isinstance(found, Answer):
            if segment.is_answer:
                self._answer(segment, found)
        elif not segment.is_answer:
            self.asked.ask(segment.ends, found, segment.ts_ns, segment.tgid)

    def _answer(self, segment: Segment, answer: Answer) -> None:
        asker = self.asked.answer(segment.ends, answer.question, segment.ts_ns)
        if asker is None:
            self.unused["to no question that was seen"] += 1
            return
        if self._servers is not None and segment.ends.server not in self._servers:
            self.unused["of servers that are not configured"] += 1
            return
        self.answers += 1
        told = ((self._addresses[packed], ttl_s) for packed, ttl_s in answer.addresses)
        known = [(address, ttl_s) for address, ttl_s in told if address is not None]
        self._learner.learn_each(known, answer.names, "dns", segment.ts_ns, asker)

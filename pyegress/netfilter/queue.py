# SPDX-License-Identifier: MIT
"""One queue that NFQUEUE rules hand packets to, and the verdicts on them."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyegress.netfilter.channel import Channel
from pyegress.netfilter.gaps import Gaps
from pyegress.netfilter.holder import QUEUE, listed
from pyegress.netfilter.messages import Queued, parse_queued

UNLIMITED = 1 << 24
_DROP, _ACCEPT = 0, 1
# linux/netfilter/nfnetlink_queue.h: a netlink header, an nfgenmsg, NFQA_VERDICT_HDR.
_VERDICT_TYPE = 3 << 8 | 1
_REQUEST = 1
_VERDICT_HEADER = struct.pack("=HH", 12, 2)
_VERDICT_AT = 24
# Columns of /proc/net/netfilter/nfnetlink_queue.
_WAITING, _FULL, _UNREAD, _LAST_ID = 2, 5, 6, 7
_pack_verdict = struct.Struct("!II").pack_into


class Statistics(NamedTuple):
    """What the kernel counts of a queue."""

    waiting: int
    """Packets without a verdict."""
    dropped_full: int
    """Dropped because as many waited as may."""
    dropped_unread: int
    """Dropped because the receive buffer was full."""


class Queue:
    """Bound from when it is made until `close`; for one thread. Raises InputError or UnsupportedError.

    With `fail_open` packets pass that find the queue full; the kernel counts them only where it is the buffer
    that is full, so then that alone is the limit, not `length`.
    """

    def __init__(self, number: int, length: int, buffer_bytes: int, fail_open: bool) -> None:
        from pyegress.netfilter import requests

        self.number = number
        self._verdict = _message(number, _VERDICT_HEADER + bytes(8))
        self._gaps = Gaps(1)
        self._statistics = Statistics(0, 0, 0)
        self._open = True
        self._stopped = False
        self.malformed = 0
        """Messages that could not be read."""
        self.unheard = 0
        """Verdicts that the kernel did not take."""
        request = requests.bind_queue(number, 1, UNLIMITED if fail_open else length, fail_open)
        self._channel = Channel.bound(QUEUE, number, buffer_bytes, request)

    @property
    def overruns(self) -> int:
        """How often the receive buffer was full."""
        return self._channel.overruns

    @property
    def unseen(self) -> int:
        """Packets that found the buffer full, as the numbers of others tell; let through with `fail_open`."""
        return self._gaps.missed

    def fileno(self) -> int:
        """Readable when packets have come."""
        return self._channel.fileno()

    def receive(self) -> list[Queued]:
        """The packets that have come, without waiting; each needs a verdict. None: all were taken."""
        packets: list[Queued] = []
        for datagram in self._channel.datagrams():
            batch = parse_queued(datagram)
            self.malformed += batch.malformed
            for packet in batch.packets:
                self._gaps.follow(packet.packet_id)
            packets += batch.packets
        if self._stopped and not packets:
            # Nothing is numbered any more: these are the last ones that we were not told of.
            fields = listed(QUEUE, self.number)
            if fields is not None:
                self._gaps.reach(fields[_LAST_ID] + 1)
        return packets

    def verdict(self, packet_id: int, accept: bool) -> None:
        """Let a packet go on, or drop it."""
        message = self._verdict
        _pack_verdict(message, _VERDICT_AT, _ACCEPT if accept else _DROP, packet_id)
        if not self._channel.tell(message):
            self.unheard += 1

    def stop_filling(self, accept: bool) -> None:
        """Let what comes from now on pass, or drop it; then `receive` until there is none, and give verdicts."""
        from pyegress.netfilter import requests

        self._channel.tell(requests.limit_queue(self.number, 0, 0, accept))
        self._stopped = True

    def statistics(self) -> Statistics:
        """The kernel's counts; the last known ones once it is closed."""
        fields = listed(QUEUE, self.number) if self._open else None
        if fields is not None:
            self._statistics = Statistics(fields[_WAITING], fields[_FULL], fields[_UNREAD])
        return self._statistics

    def close(self) -> None:
        """Unbind; the kernel drops what still waits."""
        self.statistics()
        self._open = False
        self._channel.close()


def _message(number: int, attributes: bytes) -> bytearray:
    """A verdict message, to be filled in."""
    header = struct.pack("=IHHII", 20 + len(attributes), _VERDICT_TYPE, _REQUEST, 0, 0)
    return bytearray(header + struct.pack("!BBH", 0, 0, number) + attributes)

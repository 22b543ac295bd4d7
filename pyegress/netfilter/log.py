# SPDX-License-Identifier: MIT
"""One group that NFLOG rules log to."""

from __future__ import annotations

from pyegress.netfilter.channel import Channel
from pyegress.netfilter.gaps import Gaps
from pyegress.netfilter.holder import LOG
from pyegress.netfilter.messages import Logged, parse_logged


class LogGroup:
    """Bound from when it is made until `close`; for one thread. Raises InputError or UnsupportedError."""

    def __init__(self, group: int, buffer_bytes: int) -> None:
        from pyegress.netfilter import requests

        self._number = group
        self._gaps = Gaps(0)
        self.malformed = 0
        """Messages that could not be read."""
        self._channel = Channel.bound(LOG, group, buffer_bytes, requests.bind_log(group, 1))

    @property
    def overruns(self) -> int:
        """How often the receive buffer was full."""
        return self._channel.overruns

    @property
    def gaps(self) -> int:
        """Packets that were logged but did not arrive."""
        # After the last loss no packet comes whose number would tell of it.
        return max(self._gaps.missed, self._channel.drops)

    def fileno(self) -> int:
        """Readable when packets have come."""
        return self._channel.fileno()

    def receive(self) -> list[Logged]:
        """The packets that have come, without waiting; there may be more when it returns many."""
        packets: list[Logged] = []
        for datagram in self._channel.datagrams():
            batch = parse_logged(datagram)
            self.malformed += batch.malformed
            for packet in batch.packets:
                self._gaps.follow(packet.seq)
            packets += batch.packets
        return packets

    def stop_filling(self) -> None:
        """Let nothing more come; then `receive` until there is none."""
        from pyegress.netfilter import requests

        self._channel.tell(requests.unbind_log(self._number))

    def close(self) -> None:
        """Unbind."""
        self._channel.close()

# SPDX-License-Identifier: MIT
"""Which packets of a capture leave the host, and which of them belong to what somebody else began."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from pyegress.destinations import is_loopback

FLOWS = 65536
_OURS, _THEIRS, _ANSWER = range(3)


class Directions:
    """Tells by addresses, and where the link layer says who sent a packet, by that. For one thread.

    A flow without a beginning in its packets (UDP) is of whoever was seen to send first.
    """

    def __init__(self, is_local: Callable[[bytes], bool], flows: int = FLOWS) -> None:
        self._is_local = is_local
        self._capacity = flows
        # A dict's first key takes the longer to find, the more were deleted before it.
        self._flows: OrderedDict[bytes, int] = OrderedDict()

    def leaves(self, src: bytes, sent: bool | None) -> bool:
        """Whether a packet from this address (16 bytes) leaves the host; `sent` is the link layer's word."""
        # Loopback's packets are all received.
        return self._is_local(src) if sent is None or is_loopback(src) else sent

    def is_known_other(self, flow: bytes) -> bool:
        """Whether `is_ours` said no before: cheap."""
        return self._flows.get(flow, _OURS) != _OURS

    def is_ours(self, flow: bytes, sent: bool | None) -> bool:
        """Whether a packet belongs to a flow that this host began, and isn't a copy of one that comes in again."""
        known = self._flows.get(flow)
        if known is None:
            back = self._flows.get(reverse(flow))
            if self.leaves(flow[:16], sent):
                known = _ANSWER if back == _THEIRS else _OURS
            else:
                known = _ANSWER if back == _OURS else _THEIRS
            if len(self._flows) >= self._capacity:
                self._flows.popitem(last=False)
            self._flows[flow] = known
        return known == _OURS and (sent is None or self.leaves(flow[:16], sent))


def reverse(flow: bytes) -> bytes:
    """The flow (first member of `struct egress_packet`) of packets that go the other way."""
    return flow[16:32] + flow[:16] + flow[34:36] + flow[32:34] + flow[36:]

# SPDX-License-Identifier: MIT
"""How TLS and QUIC connections begin -> the memory of names: which server the client asks for; of bounded size."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from pyegress.decode.address import Addresses
from pyegress.names.clienthello import HEADER_BYTES, MOST_BYTES, length_of, server_name
from pyegress.names.memory import Memory
from pyegress.names.message import MalformedError
from pyegress.names.segment import SYN, TCP, Ends, Segment

if TYPE_CHECKING:
    from pyegress.names.quic import Initial, Keys

MOST_STREAMS = 256
"""Of which the rest of a ClientHello is awaited: some 4 MB at most."""
MOST_FLOWS = 1024
MOST_PIECES = 128
"""Of one ClientHello in QUIC."""
_RECORD_BYTES = 5
_NUMBERS = 1 << 32
_FORGOTTEN = "not whole when others needed the place"


class _Stream(msgspec.Struct, gc=False):
    next: int
    held: bytearray


class _Flow(msgspec.Struct):
    destination: bytes
    keys: Keys
    pieces: dict[int, bytes]
    held: int = 0
    is_done: bool = False


class Hellos:
    """For one thread."""

    def __init__(self, memory: Memory, notice: Callable[[str], None]) -> None:
        """`notice` is told what can't be seen."""
        self.unused: Counter[str] = Counter()
        """Those that gave no name, by why."""
        self.learned = 0
        self._memory = memory
        self._addresses = Addresses()
        self._streams: OrderedDict[Ends, _Stream] = OrderedDict()
        self._flows: OrderedDict[Ends, _Flow] = OrderedDict()
        self._quic = self._open_quic(notice)

    def __len__(self) -> int:
        return len(self._streams) + len(self._flows)

    @property
    def held_bytes(self) -> int:
        """Of hellos that are not whole yet."""
        flows = sum(flow.held for flow in self._flows.values())
        return flows + sum(len(stream.held) for stream in self._streams.values())

    def take(self, segment: Segment) -> None:
        """Learn from a segment to another port than that of DNS."""
        try:
            if segment.ends.protocol == TCP:
                self._take_tls(segment)
            elif self._quic is not None:
                self._take_quic(segment, *self._quic)
        except MalformedError as error:
            self.unused[str(error)] += 1

    def _take_tls(self, segment: Segment) -> None:
        ends, payload = segment.ends, segment.payload
        at = segment.seq + bool(segment.flags & SYN)
        stream = self._streams.get(ends)
        if stream is None or at % _NUMBERS != stream.next:
            if not is_hello(payload):
                return
            stream = self._streams[ends] = _Stream(0, bytearray())
        stream.held += payload
        stream.next = (at + len(payload)) % _NUMBERS
        self._streams.move_to_end(ends)
        if len(self._streams) > MOST_STREAMS:
            self._streams.popitem(last=False)
            self.unused[_FORGOTTEN] += 1
        whole = _RECORD_BYTES + int.from_bytes(stream.held[3:5], "big")
        if whole <= MOST_BYTES and len(stream.held) < whole and not segment.is_cut:
            return
        del self._streams[ends]
        self._learn(segment, bytes(stream.held[_RECORD_BYTES:whole]))

    def _take_quic(
        self,
        segment: Segment,
        initials: Callable[[bytes], Iterator[Initial]],
        crypto: Callable[[bytes], Iterator[tuple[int, bytes]]],
        make: type[Keys],
    ) -> None:
        for initial in initials(segment.payload):
            flow = self._flows.get(segment.ends)
            if flow is not None and flow.is_done and flow.destination == initial.destination:
                continue
            payload = None
            if flow is None or flow.destination != initial.destination:
                keys = make(initial.version, initial.destination)
                payload = keys.payload(initial)
                if payload is not None:
                    flow = self._flows[segment.ends] = _Flow(initial.destination, keys, {})
            if flow is None:
                self.unused["not of a client"] += 1
                return
            if payload is None:
                # Once the server has answered, it chooses the id, and the keys stay.
                payload = flow.keys.payload(initial)
            if payload is None or flow.is_done:
                continue
            self._flows.move_to_end(segment.ends)
            self._make_room()
            self._add(segment, flow, crypto(payload))

    def _add(self, segment: Segment, flow: _Flow, pieces: Iterator[tuple[int, bytes]]) -> None:
        for offset, piece in pieces:
            if offset + len(piece) > MOST_BYTES or len(flow.pieces) >= MOST_PIECES:
                raise MalformedError("too long")
            if len(piece) > len(flow.pieces.get(offset, b"")):
                flow.held += len(piece) - len(flow.pieces.get(offset, b""))
                flow.pieces[offset] = piece
        hello = b""
        for offset in sorted(flow.pieces):
            if offset > len(hello):
                break
            hello += flow.pieces[offset][len(hello) - offset :]
        if len(hello) < HEADER_BYTES or len(hello) < length_of(hello):
            return
        flow.is_done, flow.held = True, 0
        flow.pieces.clear()
        self._learn(segment, hello)

    def _learn(self, segment: Segment, hello: bytes) -> None:
        name = server_name(hello)
        if name is None:
            self.unused["without a name"] += 1
            return
        address = self._addresses[segment.ends.server]
        if address is not None:
            self.learned += 1
            self._memory.learn(address, (name,), "sni", 0, segment.ts_ns, segment.tgid)

    def _make_room(self) -> None:
        while len(self._flows) > MOST_FLOWS:
            _, oldest = self._flows.popitem(last=False)
            self.unused[_FORGOTTEN] += not oldest.is_done

    @staticmethod
    def _open_quic(
        notice: Callable[[str], None],
    ) -> (
        tuple[
            Callable[[bytes], Iterator[Initial]], Callable[[bytes], Iterator[tuple[int, bytes]]], type[Keys]
        ]
        | None
    ):
        try:
            from pyegress.names.quic import Keys, crypto, initials
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != "cryptography":
                raise
            notice("names: those of QUIC need the package cryptography: pip install 'pyegress[sni]'")
            return None
        return initials, crypto, Keys


def is_hello(payload: bytes) -> bool:
    """Whether a piece of a TCP stream begins with a ClientHello."""
    return payload[:2] == b"\x16\x03" and payload[_RECORD_BYTES : _RECORD_BYTES + 1] == b"\x01"

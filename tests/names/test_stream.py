# SPDX-License-Identifier: MIT
"""DNS over TCP: messages whole, in order, from segments of any cut; and bounded."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.segment import FIN, SYN, Segment
from pyegress.names.stream import Streams
from tests.names.wire import STREAM

FIRST = (1 << 32) - 20
"""So that numbers begin anew within the stream."""


def segment(payload: bytes = b"", at: int = 0, flags: int = 0, cut: bool = False, port: int = 1) -> Segment:
    """A piece of a stream; its first byte is 0."""
    number = FIRST if flags & SYN else FIRST + 1 + at
    return Segment(STREAM._replace(client_port=port), True, payload, 0, cut, number % (1 << 32), flags)


def framed(*messages: bytes) -> bytes:
    """As they are in a stream."""
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def read(streams: Streams, *segments: Segment) -> list[bytes]:
    """The messages of segments."""
    return [message for each in segments for message in streams.messages(each)]


@given(st.lists(st.binary(max_size=60), max_size=5), st.lists(st.integers(0, 300), max_size=9))
def test_any_cut(messages: list[bytes], cuts: list[int]) -> None:
    """What was sent comes out, however it was cut, and each piece is sent again with what came before."""
    text, streams = framed(*messages), Streams()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    found = read(streams, segment(flags=SYN))
    for start, end in pairwise(places):
        found += read(
            streams,
            segment(text[start:end], start),
            segment(text[max(0, start - 3) : end], max(0, start - 3)),
        )
    assert found == messages
    assert streams.held_bytes == 0
    assert not streams.given_up
    read(streams, segment(at=len(text), flags=FIN))
    assert len(streams) == 0


def test_largest_message() -> None:
    """64 KiB in pieces."""
    message = bytes(range(256)) * 256
    text, streams = framed(message[:65535]), Streams()
    pieces = [segment(text[at : at + 4096], at) for at in range(0, len(text), 4096)]
    assert read(streams, segment(flags=SYN), *pieces) == [message[:65535]]


def test_gap_gives_the_stream_up() -> None:
    """Counted; what follows is not taken for a message, and nothing is kept."""
    streams, text = Streams(), framed(b"abc", b"def")
    assert read(streams, segment(flags=SYN), segment(text[:3]), segment(text[5:], 5), segment(text, 0)) == []
    assert streams.given_up == {
        "a segment is missing or came too early": 1,
        "segments of streams whose beginning was missed": 1,
    }
    assert (len(streams), streams.held_bytes) == (0, 0)


def test_cut_segment() -> None:
    """What is whole counts, then it is over."""
    streams = Streams()
    assert read(streams, segment(flags=SYN), segment(framed(b"abc") + b"\0\5d", cut=True)) == [b"abc"]
    assert streams.given_up == {"a segment was cut": 1}
    assert len(streams) == 0


def test_stream_that_began_before() -> None:
    """Nobody knows where its messages begin."""
    streams = Streams()
    assert read(streams, segment(framed(b"abc"))) == []
    assert streams.given_up == {"segments of streams whose beginning was missed": 1}
    assert len(streams) == 0


def test_bounded() -> None:
    """In number and in bytes, whatever lengths are promised; the longest quiet goes first."""
    streams = Streams(most=2, most_bytes=10)
    for port in (1, 2, 3):
        read(streams, segment(flags=SYN, port=port))
    assert (len(streams), streams.given_up["too many at a time"]) == (2, 1)
    read(streams, segment(b"\xff\xff12345", port=2), segment(b"\xff\xff12345", port=3))
    assert (len(streams), streams.held_bytes) == (1, 7)


_PIECES = st.builds(
    segment,
    st.binary(max_size=20),
    st.integers(0, 40),
    st.sampled_from((0, SYN, FIN)),
    st.booleans(),
    st.integers(1, 4),
)


@given(st.lists(_PIECES, max_size=60))
def test_any_segments(pieces: list[Segment]) -> None:
    """Nothing is raised, and what is held is what the bounds allow."""
    streams = Streams(most=3, most_bytes=50)
    for piece in pieces:
        read(streams, piece)
        assert len(streams) <= 3
        assert 0 <= streams.held_bytes <= 50
    for port in range(1, 5):
        read(streams, segment(flags=FIN, port=port))
    assert (len(streams), streams.held_bytes) == (0, 0)

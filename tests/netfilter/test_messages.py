# SPDX-License-Identifier: MIT
"""Netlink messages of logged and queued packets: whole, odd and broken ones."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.escape import display
from pyegress.netfilter.messages import (
    LOG_PACKET,
    QUEUE_PACKET,
    LogBatch,
    Logged,
    QueueBatch,
    Queued,
    is_of_this_host,
    may_leave,
    parse_logged,
    parse_queued,
)

PACKET = b"\x45" + bytes(27)
LOG_HEADER = (1, b"\x08\0\x03\0")
QUEUE_HEADER = (1, b"\0\0\0\x07\x08\0\x03")
AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10
NOTHING = (None,) * 9


def number(value: int) -> bytes:
    """As netfilter writes numbers."""
    return struct.pack("!I", value)


def attribute(kind: int, value: bytes) -> bytes:
    """One with its padding."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, *attributes: tuple[int, bytes], family: int = AF_INET, tail: bytes = b"") -> bytes:
    """One of these attributes, and raw bytes after them."""
    body = struct.pack("!BBH", family, 0, 100) + b"".join(attribute(*pair) for pair in attributes) + tail
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def test_logged_packet_with_everything() -> None:
    """Each attribute ends in its field, numbers in host order, the time in ns."""
    attributes = [
        LOG_HEADER,
        (2, number(9)),
        (3, struct.pack("!QQ", 1_700_000_000, 123_456)),
        (4, number(5)),
        (5, number(6)),
        (8, bytes(12)),
        (9, PACKET),
        (10, b"pfx \0"),
        (11, number(1000)),
        (14, number(1001)),
        (12, number(77)),
        (99, b"?"),
    ]
    assert parse_logged(message(LOG_PACKET, *attributes, family=AF_INET6)) == LogBatch(
        [Logged(AF_INET6, PACKET, "pfx ", 1000, 1001, 3, 5, 6, 9, 77, 1_700_000_000_123_456_000)], 0
    )


def test_queued_packet_with_everything() -> None:
    """Each attribute ends in its field."""
    attributes = [
        QUEUE_HEADER,
        (3, number(9)),
        (4, struct.pack("!QQ", 1, 2)),
        (5, number(5)),
        (6, number(6)),
        (10, PACKET),
        (13, number(9000)),
        (16, number(1000)),
        (17, number(1001)),
    ]
    assert parse_queued(message(QUEUE_PACKET, *attributes)) == QueueBatch(
        [Queued(AF_INET, 7, PACKET, 1000, 1001, 3, 5, 6, 9, 1_000_002_000, 9000)], 0
    )


def test_what_is_left_out_is_unknown() -> None:
    """A packet without a payload, header or owner is one all the same: `--nflog-size 0` makes such."""
    assert parse_logged(message(LOG_PACKET)).packets == [Logged(AF_INET, b"", *NOTHING)]
    assert parse_queued(message(QUEUE_PACKET, QUEUE_HEADER)).packets == [
        Queued(AF_INET, 7, b"", None, None, 3, *NOTHING[:5])
    ]


def test_other_families_are_told() -> None:
    """Whether to take a bridge's packet is the input's choice."""
    assert parse_logged(message(LOG_PACKET, LOG_HEADER, family=AF_BRIDGE)).packets[0].family == AF_BRIDGE


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        (b"pfx \0", "pfx "),
        (b"\0", None),
        (b"", None),
        (b"no end", "no end"),
        (b"a\0b\0", "a"),
        (b"\xff\xfe\x1b[31m\n\0", "\udcff\udcfe\x1b[31m\n"),
        ("é".encode() * 32 + b"\0", "é" * 32),
    ],
)
def test_prefix_is_a_c_string(raw: bytes, prefix: str | None) -> None:
    """No NUL and nothing after it; hostile bytes survive, and are shown harmlessly."""
    assert parse_logged(message(LOG_PACKET, (10, raw))).packets[0].prefix == prefix
    assert display(prefix or "").isprintable()


def test_several_messages_in_a_datagram() -> None:
    """All are taken, netlink's own between them left out without a count."""
    done = struct.pack("=IHHIII", 20, 3, 0, 0, 0, 0)
    error = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -2)
    datagram = message(LOG_PACKET, (12, number(1))) + error + message(LOG_PACKET, (12, number(2))) + done
    packets, malformed = parse_logged(datagram)
    assert [packet.seq for packet in packets] == [1, 2]
    assert malformed == 0


ODD = [
    pytest.param(struct.pack("=HH", 3, 9), id="length 3"),
    pytest.param(struct.pack("=HH", 0, 9), id="length 0"),
    pytest.param(struct.pack("=HH", 9, 9) + b"abcd", id="over the end"),
    pytest.param(attribute(5, number(1) * 2), id="long number"),
    pytest.param(attribute(3, b"abcd") + attribute(4, b"abcd12"), id="short time"),
]


@pytest.mark.parametrize("tail", [*ODD, pytest.param(attribute(11, b"ab"), id="short owner")])
def test_odd_attribute_of_a_logged_packet(tail: bytes) -> None:
    """It spoils its message alone."""
    logged = message(LOG_PACKET, LOG_HEADER, (9, PACKET), tail=tail)
    assert parse_logged(logged + message(LOG_PACKET)) == LogBatch([Logged(AF_INET, b"", *NOTHING)], 1)


@pytest.mark.parametrize("tail", [*ODD, pytest.param(attribute(16, b"ab"), id="short owner")])
def test_odd_attribute_of_a_queued_packet(tail: bytes) -> None:
    """The packet is still there to get a verdict, without what can't be trusted."""
    datagram = message(QUEUE_PACKET, QUEUE_HEADER, (10, PACKET), tail=tail) + message(
        QUEUE_PACKET, QUEUE_HEADER
    )
    packets, malformed = parse_queued(datagram)
    assert [(packet.packet_id, packet.payload) for packet in packets] == [(7, b"")] * 2
    assert malformed == 1


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"\0", id="no header"),
        pytest.param(message(QUEUE_PACKET)[:19], id="cut"),
        pytest.param(struct.pack("=IHHII", 0, QUEUE_PACKET, 0, 0, 0) + bytes(100), id="length 0"),
        pytest.param(struct.pack("=IHHII", 1 << 31, QUEUE_PACKET, 0, 0, 0) + bytes(100), id="length 2 GiB"),
        pytest.param(struct.pack("=IHHII", 16, QUEUE_PACKET, 0, 0, 0), id="no family"),
        pytest.param(message(QUEUE_PACKET, (1, b"short")), id="short packet header"),
        pytest.param(message(QUEUE_PACKET, (10, PACKET)), id="no packet header"),
        pytest.param(message(999, QUEUE_HEADER), id="another message"),
    ],
)
def test_broken_datagram(datagram: bytes) -> None:
    """It is counted once, and gives nothing."""
    assert parse_queued(datagram) == QueueBatch([], 1)


def test_nested_flag_is_no_other_attribute() -> None:
    """The flag bits of a type are not of its number."""
    assert parse_logged(message(LOG_PACKET, (0x8000 | 9, PACKET))).packets[0].payload == PACKET


LOGGED_WHOLE = message(LOG_PACKET, LOG_HEADER, (10, b"p\0"), (9, PACKET), (11, number(0)), (12, number(3)))
QUEUED_WHOLE = message(QUEUE_PACKET, QUEUE_HEADER, (10, PACKET), (16, number(0)), (13, number(3)))


def check(datagram: bytes) -> None:
    """Whatever it is, there is an answer of the right kind."""
    logged, queued = parse_logged(datagram).packets, parse_queued(datagram).packets
    for payload in [packet.payload for packet in logged] + [packet.payload for packet in queued]:
        assert isinstance(payload, bytes)
        assert len(payload) <= len(datagram)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes(datagram: bytes) -> None:
    """Noise gives a defined result."""
    check(datagram)


@given(st.sampled_from([LOGGED_WHOLE, QUEUED_WHOLE]), st.data())
@settings(max_examples=500, deadline=None)
def test_changed_bytes(datagram: bytes, data: st.DataObject) -> None:
    """So do real messages with some bytes changed."""
    changed = bytearray(datagram * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed))


def test_every_beginning() -> None:
    """A message cut anywhere gives no packet but one that waits for its verdict."""
    for size in range(len(LOGGED_WHOLE)):
        assert parse_logged(LOGGED_WHOLE[:size]) == LogBatch([], 1 if size else 0)
        body = QUEUED_WHOLE[4:size]
        cut = struct.pack("=I", size) + body
        packets, malformed = parse_queued(cut)
        assert [packet.packet_id for packet in packets] in ([], [7])
        assert len(packets) + malformed >= (1 if size else 0)


def test_many_at_random() -> None:
    """Lists of random attributes never raise, and each message gives at most one packet."""
    source = random.Random(5)
    for _ in range(500):
        attributes = [
            (source.randrange(24), source.randbytes(source.choice((0, 4, 7, 16))))
            for _ in range(source.randrange(9))
        ]
        for kind, parse in ((LOG_PACKET, parse_logged), (QUEUE_PACKET, parse_queued)):
            packets, malformed = parse(message(kind, *attributes))
            assert len(packets) <= 1
            assert malformed <= 1


@pytest.mark.parametrize(
    ("hook", "uid", "leaves", "ours"),
    [
        (0, None, False, True),
        (1, None, False, True),
        (2, None, True, False),
        (3, None, True, True),
        (4, None, True, False),
        (4, 0, True, True),
        (None, None, True, True),
    ],
)
def test_what_the_hook_tells(hook: int | None, uid: int | None, leaves: bool, ours: bool) -> None:
    """Nothing leaves by PREROUTING and INPUT; of this host is what isn't forwarded."""
    packet = Logged(AF_INET, b"", None, uid, None, hook, None, None, None, None, None)
    assert (may_leave(packet), is_of_this_host(packet)) == (leaves, ours)

# SPDX-License-Identifier: MIT
"""QUIC's first packets: keys of the RFCs, packets of a real client, and any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.clienthello import server_name
from pyegress.names.message import MalformedError
from pyegress.names.quic import Keys, crypto, initials
from tests.names.hello import VERSION_1, VERSION_2, quic

DESTINATION = bytes.fromhex("8394c8f03e515708")
(DATAGRAM,) = quic("www.example")


@pytest.mark.parametrize(
    ("version", "key", "iv", "header"),
    [
        (
            VERSION_1,
            *("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c"),
            "9f50449e04a0e810283a1e9933adedd2",
        ),
        (
            VERSION_2,
            *("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f"),
            "45b95e15235d6f45a6b19cbcb0294ba9",
        ),
    ],
)
def test_keys_of_the_rfcs(version: int, key: str, iv: str, header: str) -> None:
    """RFC 9001, A.1, and RFC 9369, A.1."""
    keys = Keys(version, DESTINATION)
    assert (keys.key.hex(), keys.iv.hex(), keys.header.hex()) == (key, iv, header)


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_packet_of_a_real_client(version: int) -> None:
    """Its ClientHello is in it; others' keys don't open it."""
    (datagram,) = quic("www.example", version)
    (initial,) = initials(datagram)
    payload = Keys(initial.version, initial.destination).payload(initial)
    assert payload is not None
    ((offset, hello),) = crypto(payload)
    assert (offset, server_name(hello)) == (0, "www.example")
    assert Keys(initial.version, b"others").payload(initial) is None
    # Some given to the kernel at once follow each other.
    assert len(list(initials(datagram * 2))) == 2


def test_frames() -> None:
    """Those that stand beside the handshake are passed over."""
    ack = b"\3\1\0\1\2\1\1\1\1\1"
    payload = b"\0\0\1" + ack + b"\6\5\2ab\0\1\6\x40\7\1c\0"
    assert list(crypto(payload)) == [(5, b"ab"), (7, b"c")]
    assert list(crypto(b"\x1c\0\0\0")) == []
    for cut in b"\6", b"\6\0\x40", b"\6\0\2a", b"\2\1":
        with pytest.raises(MalformedError):
            list(crypto(cut))
    with pytest.raises(MalformedError, match="too much work"):
        list(crypto(b"\1" * 1000))


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
    st.integers(0, len(DATAGRAM)),
)
def test_any_datagram(changes: list[tuple[int, int]], kept: int) -> None:
    """Is read or refused."""
    damaged = bytearray(DATAGRAM)
    for at, value in changes:
        damaged[at] = value
    with suppress(MalformedError):
        for initial in initials(bytes(damaged[:kept])):
            payload = Keys(initial.version, initial.destination).payload(initial)
            list(crypto(payload or b""))


@given(st.binary(max_size=2000))
def test_any_frames(payload: bytes) -> None:
    """Are read or refused."""
    with suppress(MalformedError):
        assert sum(len(piece) for _, piece in crypto(payload)) <= len(payload)

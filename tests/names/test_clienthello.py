# SPDX-License-Identifier: MIT
"""ClientHellos: the name that a real client asks for, and any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.names.clienthello import MOST_BYTES, length_of, server_name
from pyegress.names.message import MalformedError
from tests.names.hello import tls

HELLO = tls("WWW.Example")[5:]
AT = HELLO.lower().index(b"www.example")


def named(name: bytes) -> bytes:
    """The same with another name of its length."""
    return HELLO[:AT] + name + HELLO[AT + len(name) :]


def test_name_of_a_real_client() -> None:
    """In lower case; none where it gives none."""
    assert server_name(HELLO) == "www.example"
    assert server_name(tls(None)[5:]) is None
    assert length_of(HELLO[:4]) == len(HELLO)
    assert server_name(HELLO + b"what follows") == "www.example"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a,b\x1b.exampl", "a\\044b\\027.exampl"),
        (b"www.exampl.", "www.exampl"),
        (b"192.168.1.1", None),
        (b"2001:db8::1", None),
    ],
)
def test_any_name(name: bytes, expected: str | None) -> None:
    """Is text that is safe to show; an address is none."""
    assert server_name(named(name)) == expected


@pytest.mark.parametrize(
    "wire",
    [b"", HELLO[:3], HELLO[:-1], b"\2" + HELLO[1:], b"\1\xff\xff\xff" + HELLO[4:], named(b"www..exampl")],
    ids=["nothing", "begun", "cut", "another", "long", "empty label"],
)
def test_what_is_none(wire: bytes) -> None:
    """Is refused."""
    with pytest.raises(MalformedError):
        server_name(wire)


@given(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=8))
def test_damaged(changes: list[tuple[int, int]]) -> None:
    """Bytes that were changed are read or refused."""
    damaged = bytearray(HELLO)
    for at, value in changes:
        damaged[at] = value
    with suppress(MalformedError):
        name = server_name(bytes(damaged))
        assert name is None or (name.isascii() and name.isprintable() and " " not in name)


@given(st.binary(max_size=MOST_BYTES))
def test_any_bytes(wire: bytes) -> None:
    """Are read or refused."""
    with suppress(MalformedError):
        server_name(b"\1" + (len(wire) % 65536).to_bytes(3, "big") + wire)

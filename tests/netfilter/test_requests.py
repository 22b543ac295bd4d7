# SPDX-License-Identifier: MIT
"""Requests to netfilter, byte by byte as linux/netfilter/nfnetlink_{log,queue}.h lay them out."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest

from pyegress.netfilter import requests

REQUEST_ACK = 5


def message(
    kind: int, number: int, sequence: int, *attributes: tuple[int, bytes], flags: int = REQUEST_ACK
) -> bytes:
    """A request of these attributes."""
    body = struct.pack("!BBH", 0, 0, number)
    for name, value in attributes:
        body += struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def big(value: int) -> bytes:
    """A number in network order."""
    return struct.pack("!I", value)


def test_log() -> None:
    """Bind with all settings in one message, so that no packet is logged by others."""
    assert requests.bind_log(300, 9) == message(
        0x401,
        300,
        9,
        (1, b"\x01"),
        (2, big(512) + b"\x02\0"),
        (4, big(0)),
        (5, big(1)),
        (6, b"\0\x01"),
    )


def test_no_more_log() -> None:
    """Its answer would take room from the last packets."""
    assert requests.unbind_log(300) == message(0x401, 300, 0, (1, b"\x02"), flags=1)


@pytest.mark.parametrize("fail_open", [False, True])
def test_queue(fail_open: bool) -> None:
    """Bind with all settings in one message; flags by mask."""
    flags = 4 | 8 | fail_open
    assert requests.bind_queue(300, 9, 4096, fail_open) == message(
        0x302,
        300,
        9,
        (1, b"\x01\0\0\0"),
        (2, big(512) + b"\x02"),
        (3, big(4096)),
        (4, big(13)),
        (5, big(flags)),
    )
    assert requests.limit_queue(300, 9, 0, fail_open) == message(
        0x302, 300, 9, (3, big(0)), (4, big(1)), (5, big(fail_open))
    )


@pytest.mark.parametrize(
    ("datagram", "code"),
    [
        (struct.pack("=IHHIIi", 20, 2, 0, 7, 1, 0), 0),
        (struct.pack("=IHHIIi", 20, 2, 0, 7, 1, -1), 1),
        (struct.pack("=IHHIIi", 20, 2, 0, 6, 1, -1), None),
        (struct.pack("=IHHIIi", 20, 0x400, 0, 7, 1, -1), None),
        (struct.pack("=IHHII", 16, 2, 0, 7, 1), None),
        (b"", None),
    ],
)
def test_answer(datagram: bytes, code: int | None) -> None:
    """Only the answer to this request counts."""
    assert requests.answer(datagram, 7) == code


def test_pyroute2_is_imported_only_when_needed() -> None:
    """`pyegress list` imports the inputs, and must stay fast."""
    program = (
        "import sys\n"
        "from pyegress.netfilter import channel, gaps, holder, log, messages, queue, refusal\n"
        "print('pyroute2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"

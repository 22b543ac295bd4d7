# SPDX-License-Identifier: MIT
"""One `apply` at a time, and who may answer it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyegress.apply import meeting
from pyegress.errors import EgressError, UsageError
from tests.netns import needs_netfilter, own_netns

pytestmark = needs_netfilter

STRANGER = """
import os, socket, sys
os.setuid(65534)
one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
one.{do}("\\0pyegress-apply")
{then}
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Abstract sockets belong to it."""
    with own_netns():
        yield


def stranger(do: str, then: str = "") -> subprocess.Popen[str]:
    """Another user's process that has done it."""
    process = subprocess.Popen(
        [sys.executable, "-c", STRANGER.format(do=do, then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_one_at_a_time_in_a_namespace() -> None:
    """Another namespace has its own."""
    with meeting.occupied():
        with pytest.raises(EgressError, match="another `pyegress apply` waits"):
            meeting.occupied()
        with own_netns():
            meeting.occupied().close()
    meeting.occupied().close()


def test_keep_is_answered() -> None:
    """Only `kept` is good news."""
    for answer in (b"kept", b"no", b""):
        with meeting.occupied() as listener:
            listener.setblocking(True)
            code = "from pyegress.apply import meeting; meeting.keep()"
            with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
                client, _ = listener.accept()
                assert meeting.is_trusted(client)
                assert client.recv(64) == b"keep"
                if answer:
                    client.send(answer)
                client.close()
                process.communicate()
        assert (process.returncode == 0) == (answer == b"kept")


def test_nobody_waits() -> None:
    """There is nothing to keep."""
    with pytest.raises(EgressError, match="no `pyegress apply` waits in this network namespace"):
        meeting.keep()


def test_another_users_socket_is_not_believed() -> None:
    """It could say `kept` of anything."""
    with stranger("bind", "one.listen()") as process:
        with pytest.raises(UsageError, match="another user's"):
            meeting.keep()
        with pytest.raises(EgressError, match="process [0-9]+ of user 65534 holds"):
            meeting.occupied()
        process.communicate("")


def test_another_users_answer_does_not_count() -> None:
    """Only root's and one's own do."""
    with meeting.occupied() as listener, stranger("connect") as process:
        client, _ = listener.accept()
        assert not meeting.is_trusted(client)
        client.close()
        process.communicate("")
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        assert meeting.is_trusted(one)

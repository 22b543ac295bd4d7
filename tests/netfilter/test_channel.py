# SPDX-License-Identifier: MIT
"""The socket of a group or queue: its buffer, and what comes before the kernel's answer."""

from __future__ import annotations

import errno
import socket

import pytest

from pyegress.errors import EgressError, UnsupportedError
from pyegress.netfilter import requests
from pyegress.netfilter.channel import Channel
from pyegress.netfilter.holder import LOG, listed
from tests.netns import needs_netfilter, run

pytestmark = [needs_netfilter, pytest.mark.usefixtures("netns")]

GROUP = 100
BUFFER = 65536


def test_buffer_beyond_the_limit() -> None:
    """CAP_NET_ADMIN takes more than net.core.rmem_max."""
    made = Channel(LOG, GROUP, 64 << 20)
    own = socket.fromfd(made.fileno(), socket.AF_NETLINK, socket.SOCK_RAW)
    assert own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * (64 << 20)
    own.close()
    made.close()


def test_packets_before_the_answer_are_kept() -> None:
    """They come first from `datagrams`, in order."""
    run(f"iptables -A OUTPUT -p udp -j NFLOG --nflog-group {GROUP}")
    made = Channel(LOG, GROUP, BUFFER)
    made.ask(requests.bind_log(GROUP, 1), 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for size in (1, 2):
            sender.sendto(bytes(size), ("198.18.0.1", 9))
        with pytest.raises(EgressError, match=f"group {GROUP} is in use by pid "):
            made.ask(requests.bind_log(GROUP, 2), 2)
        sender.sendto(bytes(3), ("198.18.0.1", 9))
    sizes = [len(datagram) for datagram in made.datagrams()]
    assert len(sizes) == 3
    assert list(made.datagrams()) == []
    made.close()


def test_no_answer_is_an_error() -> None:
    """Nothing is waited for that won't come."""
    made = Channel(LOG, GROUP, BUFFER)
    with pytest.raises(EgressError, match=f"^nflog: group {GROUP}: EAGAIN: "):
        made.ask(requests.bind_log(GROUP, 1), 2)
    made.close()


def test_kernel_without_netfilter_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is named."""

    def no_socket(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "")

    monkeypatch.setattr(socket, "socket", no_socket)
    with pytest.raises(UnsupportedError, match="EPROTONOSUPPORT: this kernel has no nfnetlink_log; try "):
        Channel(LOG, GROUP, BUFFER)


def test_tell_without_a_socket() -> None:
    """It says that the kernel did not take it."""
    made = Channel(LOG, GROUP, BUFFER)
    assert made.tell(requests.bind_log(GROUP, 1))
    made.close()
    assert not made.tell(requests.bind_log(GROUP, 1))
    assert listed(LOG, GROUP) is None

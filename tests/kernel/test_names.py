# SPDX-License-Identifier: MIT
"""Names on kernels of distributions: a real resolver's answers reach the connections that follow."""

from __future__ import annotations

import socket

import pytest

from pyegress import kernel
from tests import traffic
from tests.kernel.observing import observe
from tests.names.hello import quic, tls
from tests.names.resolving import MANY, asked, resolving


@pytest.mark.guest("6.1", "6.12")
@pytest.mark.parametrize("place", ["cgroup", "packet socket"])
def test_names_of_destinations(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over UDP and, after what was cut off, over TCP; and what TLS and QUIC begin with.

    By the kernel's tap, or by a packet socket, which is said.
    """

    def act() -> None:
        assert asked("www.example.") == {"198.18.2.1"}
        assert len(asked("many.example.")) == MANY
        with socket.socket() as server:
            server.bind(("198.18.4.1", 0))
            server.listen()
            with socket.create_connection(server.getsockname(), 30) as client:
                client.sendall(tls("tls.example"))
                with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                    datagrams.sendto(quic("quic.example")[0], ("198.18.4.2", 443))
        traffic.run("udpaddrs", 9, "198.18.2.1", "198.18.3.60", "198.18.4.1", "198.18.4.2", "198.18.9.9")

    with resolving(), monkeypatch.context() as patch:
        if place != "cgroup":
            patch.setattr(kernel, "cgroup2_root", lambda: None)
        seen = observe("fentry", act, names="dns,sni")
    assert {c.dest_ip: c.dest_names for c in seen if c.dest_port == 9} == {
        "198.18.2.1": ("www.example", "alias.example", "edge.cdn.example"),
        "198.18.3.60": ("many.example",),
        "198.18.4.1": ("tls.example",),
        "198.18.4.2": ("quic.example",),
        "198.18.9.9": (),
    }
    assert [text for text in seen.notices if "names" in text] == (
        []
        if place == "cgroup"
        else [
            "ebpf: names: only those of this network namespace are seen, by a packet socket: no cgroup v2 is mounted"
        ]
    )

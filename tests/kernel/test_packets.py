# SPDX-License-Identifier: MIT
"""The inputs that see packets, with nft's `log group` and `queue`, on kernels of distributions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import chain
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pytest

from pyegress.inputs.nflog import Nflog, NflogOptions
from pyegress.inputs.nfqueue import Nfqueue, NfqueueOptions
from pyegress.inputs.pcap import Pcap, PcapOptions
from pyegress.losses import Losses
from pyegress.plugin import Context, Input
from pyegress.record import Connection
from tests import traffic
from tests.kernel.observing import BLACKHOLE

pytestmark = [pytest.mark.guest("6.1", "6.12"), pytest.mark.usefixtures("routes")]

V4, V6 = "192.0.2.1", "2001:db8::1"
PATIENCE_S = 20
# Loopback is left out by address: the guest's routes lead all others there too.
TABLE = """
table inet test {{
    chain out {{
        type filter hook output priority 0;
        ip daddr 127.0.0.0/8 accept
        ip6 daddr {{ ::1, fe80::/10, ff00::/8 }} accept
        ct state new {statement}
    }}
}}
"""


Seen = SimpleQueue[Connection]


def watched(source: Input, statement: str, act: Callable[[Seen], Any]) -> list[Connection]:
    """What an input reports while something happens under a rule."""
    notices: list[str] = []
    seen: list[Connection] = []
    shown: Seen = SimpleQueue()

    def read() -> None:
        for connection in chain.from_iterable(source.read()):
            seen.append(connection)
            shown.put(connection)

    source.open(Context(losses=Losses(), notice=notices.append, debug=notices.append))
    thread = Thread(target=read)
    thread.start()
    subprocess.run(["nft", "-f", "-"], input=TABLE.format(statement=statement), text=True, check=True)
    try:
        act(shown)
    finally:
        source.stop()
        thread.join()
        source.close()
        subprocess.run(["nft", "delete", "table", "inet", "test"], check=True)
    return seen


def told(found: list[Connection]) -> set[tuple[str, str, int | None, str | None, str | None]]:
    """Who connected where, and the verdict."""
    return {
        (c.protocol, c.dest_ip, c.dest_port, c.process.name if c.process else None, c.verdict) for c in found
    }


def hold(shown: Seen) -> None:
    """A datagram of each family by processes that stay until they were seen."""
    with traffic.held("hold", V4, 53), traffic.held("hold", V6, 54):
        for _ in range(2):
            shown.get(timeout=PATIENCE_S)


def test_nflog() -> None:
    """Both families, with the processes of unconnected sockets."""
    found = watched(Nflog(NflogOptions(group=7)), "log group 7 queue-threshold 1", hold)
    assert told(found) == {("udp", V4, 53, "traffic", None), ("udp", V6, 54, "traffic", None)}


def test_pcap_on_any_device() -> None:
    """The same from packets of all devices."""
    found = watched(Pcap(PcapOptions(device="any")), "accept", hold)
    wanted = {("udp", V4, 53, "traffic", None), ("udp", V6, 54, "traffic", None)}
    assert wanted <= told(found)


def test_nfqueue() -> None:
    """The allowed program connects, another is refused at once; short programs are known, since they wait."""

    def act(_: Seen) -> None:
        for name in ("good", "good2"):
            for address in (V4, V6):
                outcomes.append(traffic.words(traffic.run("named", name, "tcp", address, 7).stdout)["errnos"])

    outcomes: list[str] = []
    options = NfqueueOptions(allow_comm=("good",), default="reject")
    found = watched(Nfqueue(options), "queue flags bypass to 0", act)
    assert told(found) == {
        ("tcp", address, 7, name, verdict)
        for address in (V4, V6)
        for name, verdict in (("good", "accept"), ("good2", "reject"))
    }
    # Nobody listens: what is let through is refused by the kernel, what isn't by pyegress.
    assert set(outcomes) == {"ECONNREFUSED"}


def test_nfqueue_drops() -> None:
    """Nothing comes back for what is dropped, and it is in the record."""

    def act(shown: Seen) -> None:
        with traffic.held("hold", BLACKHOLE, 7):
            shown.get(timeout=PATIENCE_S)

    found = watched(Nfqueue(NfqueueOptions(default="drop")), "queue flags bypass to 0", act)
    assert told(found) == {("udp", BLACKHOLE, 7, "traffic", "drop")}

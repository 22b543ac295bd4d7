# SPDX-License-Identifier: MIT
"""Inside the guest: what DNS, and packets that are none, cost more while names are observed; JSON for `bench.kernel`.

As in `bench.inside`, a ns of the guest's clock is an instruction. Both ends are here, so what a packet costs is what
it costs to send and to receive it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from pyegress.names.cgrouptap import CgroupTap
from tests import traffic

ADDRESS = "127.0.0.1"
OTHER_PORT, DNS_PORT = 45000, 53
SEGMENT_BYTES = 1448
"""Of TCP on Ethernet."""
DOWNLOAD_BYTES = 1 << 20


class Case(NamedTuple):
    """What is moved from a server to its client; `cut`: by a device that takes each packet of 1500 bytes by itself."""

    name: str
    protocol: str
    port: int
    size: int
    cut: bool = False


CASES = (
    Case("answer of DNS, 200 bytes", "udp", DNS_PORT, 200),
    Case("answer of DNS, 1,400 bytes", "udp", DNS_PORT, 1400),
    Case("datagram of 1,400 bytes", "udp", OTHER_PORT, 1400),
    Case("datagram of 60,000 bytes", "udp", OTHER_PORT, 60_000),
    Case("segment of TCP, 1,448 bytes", "tcp", OTHER_PORT, SEGMENT_BYTES, True),
    Case("download of 1 MiB, segments of 64 KiB", "tcp", OTHER_PORT, DOWNLOAD_BYTES),
    Case("download of 1 MiB, segments of 1,448 bytes", "tcp", OTHER_PORT, DOWNLOAD_BYTES, True),
)


class Tap(Protocol):
    """What is attached while it is measured."""

    def close(self) -> None:
        """Detach."""


TAPS: dict[str, Callable[[], Tap]] = {"dns": CgroupTap, "dns,sni": lambda: CgroupTap(hellos=True)}


class Move(msgspec.Struct, frozen=True):
    """Instructions of one: bare, then by what is observed."""

    name: str
    bare: int
    observed: dict[str, int]


def measure(count: int) -> list[Move]:
    """Each case, moved `count` times."""
    found = []
    for cut in False, True:
        _lay(cut)
        found += [
            Move(
                case.name,
                _spent(case, count),
                {name: _observed(tap, case, count) for name, tap in TAPS.items()},
            )
            for case in CASES
            if case.cut == cut
        ]
    return found


def _lay(cut: bool) -> None:
    size = ("mtu", "1500", "gso_max_segs", "1") if cut else ("mtu", "65536", "gso_max_segs", "65535")
    subprocess.run(["ip", "link", "set", "lo", *size, "up"], check=True)


def _observed(attach: Callable[[], Tap], case: Case, count: int) -> int:
    tap = attach()
    try:
        return _spent(case, count)
    finally:
        tap.close()


def _spent(case: Case, count: int) -> int:
    said = traffic.run("benchmove", case.protocol, ADDRESS, case.port, case.size, count).stdout
    fields = traffic.words(said)
    return int(fields["median"]) - int(fields["clock"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(measure(int(sys.argv[2]))))

# SPDX-License-Identifier: MIT
"""Sets of observations, as hypothesis makes them up."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules.model import Observations
from tests.rules.test_quote import HOSTILE

NAMES = [name for name, _ in HOSTILE if name]
UNITS = ("pyegress-rules.slice/a\\x2db.service", "pyegress-rules.slice/c@1:d e.service")
"""Paths of cgroups."""

_ADDRESSES = [
    *(f"198.51.100.{host}" for host in (0, 1, 2, 3, 8, 255)),
    "224.0.0.251",
    "169.254.1.1",
    *(f"2001:db8::{host}" for host in ("", "1", "2", "3", "8", "ffff")),
    "fe80::1",
    "ff02::fb",
]
_processes = st.builds(
    lambda name, uid, unit: Process(
        pid=7,
        name=name,
        uid=uid,
        user=f"u{uid}",
        exe=name,
        cmdline=name,
        cgroup=None if unit is None else f"/{unit}/below",
        cgroup_id=None if unit is None else 9,
        unit=None if unit is None else unit.rpartition("/")[2],
        parent=Process(pid=2, name=name),
    ),
    st.sampled_from(NAMES),
    st.sampled_from([0, 1000, 4294967294]),
    st.sampled_from([*UNITS, None]),
)


def _connection(
    protocol: str,
    address: str,
    port: int,
    process: Process | None,
    ifname: str | None,
    ts: int,
    names: tuple[str, ...],
) -> Connection:
    family = 6 if ":" in address else 4
    return Connection(
        ts,
        "ebpf",
        protocol,
        family,
        address,
        port if protocol in ("tcp", "udp") else None,
        ifname=ifname,
        process=process,
        attribution="process gone" if process is None else "kernel",
        dest_names=names,
        dest_name_sources=("dns",) * len(names),
    )


connections = st.lists(
    st.builds(
        _connection,
        st.sampled_from(["tcp", "tcp", "udp", "1", "58", "132", "255"]),
        st.sampled_from(_ADDRESSES),
        st.one_of(st.integers(1, 40), st.integers(1, 65535)),
        st.one_of(st.none(), _processes, _processes),
        st.sampled_from([None, "eth0", "a@b-c.1"]),
        st.integers(1, 2_000_000_000_000_000_000),
        st.sampled_from([(), ("www.example", "edge.example"), ("api.example",), ('we"ird; }.example',)]),
    ),
    min_size=1,
    max_size=40,
)


def observed(
    seen: Iterable[Connection], losses: Losses | None = None, live: bool = False, by_name: bool = False
) -> Observations:
    """All of them."""
    observations = Observations("test", losses or Losses(), live=live, by_name=by_name)
    observations.add(seen)
    return observations

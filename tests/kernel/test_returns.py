# SPDX-License-Identifier: MIT
"""Return probes that the kernel skips, as it does under load: here they are left out on purpose."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tests import traffic
from tests.kernel.observing import made, observe

pytestmark = [pytest.mark.guest("6.1", "6.12"), pytest.mark.usefixtures("routes")]

V4, V6 = "192.0.2.1", "2001:db8::1"


@pytest.fixture(autouse=True)
def _lost_returns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the entry of tcp_v4_connect is attached."""
    from pyegress import _native

    for name in ("BPF_OBJECT", "CAST_OBJECT"):
        data = getattr(_native, name).read_bytes()
        data = data.replace(b"kretprobe/tcp_v4_connect\0", b"kretprobe/tcp_v4_connecX\0")
        (tmp_path / name).write_bytes(data)
        monkeypatch.setattr(_native, name, tmp_path / name)


@pytest.mark.parametrize("repeats", [1, 3])
def test_missed_return_still_reports_the_connect(repeats: int) -> None:
    """A connect whose return the kernel did not show is reported, without source and result, and counted."""
    seen, _ = made("kprobe", "tcp", V4, 7, repeats)
    assert [(c.dest_ip, c.src_ip, c.src_port, c.result) for c in seen] == [(V4, None, None, None)] * repeats
    assert seen.losses.total("unfinished") == repeats


def test_missed_return_is_not_the_next_connects() -> None:
    """The return of a connect that a filter hides is not taken for an earlier one's whose own was missed."""
    seen = observe(
        "kprobe",
        lambda: traffic.run("tcpaddrs", 7, V4, V6),
        ignore_cidr=(ipaddress.ip_network("2001:db8::/32"),),
    )
    assert [(c.dest_ip, c.src_ip, c.src_port) for c in seen] == [(V4, None, None)]

# SPDX-License-Identifier: MIT
"""The servers that a host's files name."""

from __future__ import annotations

from pathlib import Path

from pyegress.rules.baseline import configured_servers

FILES = {
    "etc/resolv.conf": "# nameserver 9.9.9.9\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch x\nnameserver\n",
    "run/systemd/resolve/resolv.conf": "nameserver 192.0.2.53\nnameserver 127.0.0.53\nnameserver nonsense\n",
    "etc/systemd/timesyncd.conf": "[Time]\nNTP=192.0.2.123 time.example\n#NTP=192.0.2.9\n",
    "etc/systemd/timesyncd.conf.d/a.conf": "FallbackNTP = 2001:db8::123\n",
    "etc/chrony/chrony.conf": "! x\nserver 192.0.2.124 iburst\npool pool.example iburst\nmakestep 1 3\n",
    "etc/chrony/sources.d/x.sources": "peer 192.0.2.125\nserver\n",
    "etc/ntp.conf": "server time.example\n",
}


def test_configured_servers(tmp_path: Path) -> None:
    """Each once, in the order of the files; names apart."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    servers = configured_servers(tmp_path)
    assert [(str(target.network), target.zone) for target in servers.dns] == [
        ("127.0.0.53", None),
        ("fe80::1", "eth0"),
        ("192.0.2.53", None),
    ]
    assert {str(target.network) for target in servers.ntp} == {
        "192.0.2.123",
        "192.0.2.124",
        "192.0.2.125",
        "2001:db8::123",
    }
    assert set(servers.ntp_names) == {"time.example", "pool.example"}


def test_hostile_and_missing_files(tmp_path: Path) -> None:
    """They name nothing, and nothing fails."""
    assert configured_servers(tmp_path) == ((), (), ())
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_bytes(
        b'nameserver \xff\nnameserver 1.2.3\n\x00\nnameserver fe80::1%a";drop\nnameserver fe80::1%e*\n'
    )
    (tmp_path / "etc/ntp.conf").mkdir()
    assert configured_servers(tmp_path).dns == ()

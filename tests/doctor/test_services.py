# SPDX-License-Identifier: MIT
"""systemd and its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.doctor import services
from tests.doctor.checking import found, in_mounts, needs_root
from tests.journald import Journald, needs_journald


def test_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where it has made its folder."""
    monkeypatch.setattr(services, "BOOTED", tmp_path / "system")
    assert services.systemd("systemd").state == "limited"
    (tmp_path / "system").mkdir()
    assert services.systemd("systemd").state == "works"


@needs_journald
def test_journald(tmp_path: Path) -> None:
    """The real one is found, and gets nothing written."""
    daemon = Journald(tmp_path)
    try:
        one = found("services.journald", "journald", *in_mounts(f"mount --bind {tmp_path} /run"))
        assert one.state == "works"
        assert daemon.entries() == []
    finally:
        daemon.stop()


@needs_root
def test_no_journald() -> None:
    """The other way to log is named."""
    one = found("services.journald", "journald", *in_mounts("mount -t tmpfs none /run"))
    assert (one.state, one.detail.partition(":")[0]) == (
        "limited",
        "no journal at /run/systemd/journal/socket",
    )
    assert "-O journal:to:syslog" in str(one.remedy)

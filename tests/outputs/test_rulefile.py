# SPDX-License-Identifier: MIT
"""What all outputs that make rules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs.nftables import Nftables, NftablesOptions
from pyegress.outputs.rulefile import cgroup_presence
from pyegress.plugin import Context
from pyegress.record import Connection

SEEN = Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)


def output(file: str) -> Nftables:
    """Any of them."""
    return Nftables(NftablesOptions(file=file))


def test_nothing_seen_is_said_and_leaves_the_file(tmp_path: Path) -> None:
    """Rules of yesterday are better than none."""
    path = tmp_path / "rules"
    path.write_text("before")
    notices: list[str] = []
    made = output(str(path))
    made.open(Context(Losses(), notices.append, print))
    made.close()
    made.close()
    assert path.read_text() == "before"
    assert notices == ["nftables: no outbound connection was seen that a rule could allow"]


@pytest.mark.parametrize("place", ["missing/rules", "."])
def test_bad_place_is_an_error_at_start(tmp_path: Path, place: str) -> None:
    """Not after weeks."""
    with pytest.raises(OutputError, match="cannot write"):
        output(str(tmp_path / place)).open(Context(Losses(), print, print))


def test_full_disk() -> None:
    """An error, with the old file left."""
    made = output("/dev/full")
    made.open(Context(Losses(), print, print))
    made.write([SEEN])
    with pytest.raises(OutputError, match="ENOSPC"):
        made.close()


def test_logs(tmp_path: Path) -> None:
    """The same from batches of earlier logs, whose time is theirs."""
    path = tmp_path / "rules"
    assert output(str(path)).write_logged([[SEEN]], Losses())
    assert "# observed: 0s at 1970-01-01T00:00:00Z\n" in path.read_text()
    assert not output(str(path)).write_logged([], Losses())


def test_cgroups() -> None:
    """The root is there, others are asked for once."""
    is_there = cgroup_presence()
    assert not is_there("no.slice/such.service")

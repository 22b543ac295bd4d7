# SPDX-License-Identifier: MIT
"""What all outputs that make rules share."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs.iptables import Iptables, IptablesOptions
from pyegress.outputs.nftables import Nftables, NftablesOptions
from pyegress.outputs.rulefile import RuleOutput, cgroup_presence
from pyegress.plugin import Context
from pyegress.record import Connection, Process, Repeats

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
    logged = [[Repeats.of(SEEN)]]
    assert output(str(path)).write_logged(logged, Losses(), False, print)
    assert "# observed: 0s at 1970-01-01T00:00:00Z\n" in path.read_text()
    assert "# A log does not tell what the audit lost" in path.read_text()
    assert not output(str(path)).write_logged([], Losses(), False, print)


def test_logs_that_tell_what_was_lost(tmp_path: Path) -> None:
    """Where that is something, the rules may be incomplete."""
    path, losses = tmp_path / "rules", Losses()
    logged = [[Repeats.of(SEEN)]]
    assert output(str(path)).write_logged(logged, losses, True, print)
    assert "A log does not tell" not in path.read_text() and "INCOMPLETE" not in path.read_text()
    losses.add("lost", "ring buffer full", 3)
    assert output(str(path)).write_logged(logged, losses, True, print)
    assert "# lost: 3 (ring buffer full)\n" in path.read_text() and "INCOMPLETE" in path.read_text()


OTHER_HOSTS = Process(
    pid=1, name="x", unit="a.service", cgroup="/pyegress-gone.slice/a.service", cgroup_id=9, uid=0
)
LEFT_OUT = "rules for 1 unit left out, whose cgroup is not on this host (a.service): "


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_units_of_another_host(firewall: str, tmp_path: Path) -> None:
    """That their rules are comments is said at once and in the head of each file that has any, with what to do."""
    logged = [[Repeats.of(structs.replace(SEEN, process=OTHER_HOSTS, attribution="kernel"))]]
    notices: list[str] = []
    path = tmp_path / "rules"
    one: RuleOutput = Nftables(NftablesOptions(file=str(path), scope="unit"))
    if firewall == "iptables":
        one = Iptables(IptablesOptions(file=str(path), scope="unit", format="restore"))
    assert one.write_logged(logged, Losses(), False, notices.append)
    (notice,) = notices
    assert notice.startswith(f"{one.name}: {LEFT_OUT}")
    assert notice.endswith("make the rules where and while the units run")
    heads = {
        ending: f"# CAUTION: {LEFT_OUT}" in Path(f"{path}{ending}").read_text() for ending in one.endings
    }
    assert heads == {ending: ending != ".v6" for ending in one.endings}


def test_a_report_leaves_nothing_out(tmp_path: Path) -> None:
    """It is for no firewall."""
    logged = [[Repeats.of(structs.replace(SEEN, process=OTHER_HOSTS, attribution="kernel"))]]
    notices: list[str] = []
    one = Nftables(NftablesOptions(file=str(tmp_path / "r"), scope="unit", format="json"))
    assert one.write_logged(logged, Losses(), False, notices.append)
    assert notices == [] and "a.service" in (tmp_path / "r").read_text()


def test_cgroups() -> None:
    """The root is there, others are asked for once."""
    is_there = cgroup_presence()
    assert not is_there("no.slice/such.service")


def test_replay(tmp_path: Path) -> None:
    """The evidence is the log's, and nothing of now."""
    path = tmp_path / "rules"
    made = output(str(path))
    made.open(Context(Losses(), print, print, replays=True))
    made.write([SEEN])
    made.close()
    assert "# observed: 0s at 1970-01-01T00:00:00Z\n" in path.read_text()

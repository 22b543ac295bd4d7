# SPDX-License-Identifier: MIT
"""What each way to send is told as, in one audit for each kind of hooks, all at the same time."""

from __future__ import annotations

import pytest

from tests import traffic
from tests.kernel.observing import Observed, observe
from tests.scenarios import DEVICE, SCENARIOS, SINK, Scenario, Truth, network, run

pytestmark = pytest.mark.guest("6.1", "6.12")

KINDS = ("fentry", "kprobe", "cgroup")
Audits = tuple[dict[str, Observed], dict[str, Truth]]


@pytest.fixture(scope="module")
def audits(routes: None) -> Audits:
    """What each kind of hooks told, and what each scenario did."""
    seen: dict[str, Observed] = {}
    truths: dict[str, Truth] = {}

    def act() -> None:
        for scenario in SCENARIOS:
            truths[scenario.name] = run(scenario)
        # No address can be told of what is sent from a ring: that is counted.
        traffic.run("packet", DEVICE, SINK, 4242, 3, "--ring")

    def audit(*kinds: str) -> None:
        if kinds:
            seen[kinds[0]] = observe(kinds[0], lambda: audit(*kinds[1:]), others=True, allow_loopback=True)
        else:
            act()

    with network():
        audit(*KINDS)
    return seen, truths


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("kind", KINDS)
def test_scenario(audits: Audits, kind: str, scenario: Scenario) -> None:
    """Every connect once; of a flow its first datagram and then how many there were; and whose it is."""
    seen, truths = audits
    pids = truths[scenario.name].pids
    found = [c for c in seen[kind] if c.process and c.process.pid in pids]
    calls = scenario.calls
    if kind == "cgroup" and scenario.by_cgroup is not None:
        calls = scenario.by_cgroup
    wanted = {(scenario.protocol, scenario.address, scenario.port)} if calls else set()
    assert {(c.protocol, c.dest_ip, c.dest_port) for c in found} == wanted
    assert sum(c.count for c in found) == calls
    assert len(found) <= (2 * scenario.flows or calls)
    assert {c.process.comm for c in found if c.process} <= {scenario.name, "short", "level2"}
    assert {c.attribution for c in found} <= {"kernel"}
    assert {c.src_port for c in found if c.dest_port is None} <= {None}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(audits: Audits, kind: str) -> None:
    """And what can't be read is said."""
    losses = audits[0][kind].losses
    assert losses.total("lost") == 0
    assert losses.total("unreadable") == (0 if kind == "cgroup" else 3)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.usefixtures("routes")
def test_protocols_that_are_asked_for(kind: str) -> None:
    """Raw sockets and frames are theirs by what they are; the rest is counted."""

    def act() -> None:
        for line in ("udp 192.0.2.1 7", "raw 192.0.2.1 1", "raw 192.0.2.1 253", "packet swallow 192.0.2.1 7"):
            traffic.run(*line.split())

    seen = observe(kind, act, others=True, protocol=("icmp", "packet"))
    assert [c.protocol for c in seen] == ["1", "packet-udp"]
    assert seen.losses.snapshot()["skipped", "by protocol"] == 2

# SPDX-License-Identifier: MIT
"""Inside the guest: what each tool tells of each way to send in `tests.scenarios`; writes JSON."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.peers import Score, Scores
from bench.peers.catalogue import Peer, scored
from bench.peers.inside import NOTE_LENGTH, Running, named, started
from bench.peers.reading import Sought
from tests import scenarios
from tests.kernel.observing import lay_routes
from tests.scenarios import SCENARIOS, Scenario
from tests.traffic import TrafficError

LOOK_S = 0.5
QUIET_S = 2.0
"""A tool that has recorded nothing for so long has recorded what it would."""
LIMIT_S = 30.0
LAST_S = 15.0
"""Some tell repeats, or write, after so long."""
_WORKERS = ("short", "level2")
"""Programs that scenarios start."""


def score(peer: Peer, tree: Path) -> Score:
    """Do all of it beside the tool, one after the other."""
    told: dict[str, tuple[int, int]] = {}
    try:
        with started(peer, tree) as running:
            running.ready(peer.loads[0])
            done = []
            for scenario in SCENARIOS:
                before = running.record.stat().st_size if running.record.exists() else 0
                try:
                    truth = scenarios.run(scenario)
                except TrafficError as error:
                    print(peer.name, scenario.name, error, flush=True)
                    continue
                if not peer.names_processes:
                    _settle(running)
                done.append((scenario, truth.pids, before))
            _settle(running)
            time.sleep(LAST_S)
        data = running.record.read_bytes() if running.record.exists() else b""
        ends = [before for _, _, before in done[1:]] + [len(data)]
        for (scenario, pids, before), end in zip(done, ends, strict=True):
            # Without a process it can only be told by when it was sent.
            text = data if peer.names_processes else data[before:end]
            sought = Sought(scenario.port, pids, scenario.address, (scenario.name, *_WORKERS))
            seen = peer.read(text.decode(errors="replace"), sought)
            told[scenario.name] = (seen.named if peer.names_processes else seen.events, seen.records)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Score(peer=named(peer, tree), note=f"did not run: {error}"[:NOTE_LENGTH])
    return Score(
        peer=named(peer, tree),
        names_processes=peer.names_processes,
        whole=[each.name for each in SCENARIOS if told.get(each.name, (0, 0))[0] >= _needed(each)],
        part=[each.name for each in SCENARIOS if 0 < told.get(each.name, (0, 0))[0] < _needed(each)],
        records=max(told[each.name][1] for each in SCENARIOS if each.flows and each.name in told),
    )


def _needed(scenario: Scenario) -> int:
    """Each connect; of datagrams, each flow."""
    return scenario.flows or scenario.calls


def _settle(running: Running) -> None:
    limit, quiet, size = time.monotonic() + LIMIT_S, time.monotonic(), -1
    while time.monotonic() < limit and time.monotonic() - quiet < QUIET_S:
        time.sleep(LOOK_S)
        now = running.record.stat().st_size if running.record.exists() else 0
        if now != size:
            quiet, size = time.monotonic(), now


def main() -> None:
    """Score every tool whose name has that part."""
    target, tree, kernel, part = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "".join(sys.argv[4:])
    lay_routes()
    rows = []
    with scenarios.network():
        for peer in scored():
            if part in peer.name:
                rows.append(score(peer, tree))
                print(rows[-1], flush=True)
    names = [each.name for each in SCENARIOS]
    target.write_bytes(msgspec.json.encode(Scores(kernel=kernel, scenarios=names, rows=rows)))


if __name__ == "__main__":
    main()

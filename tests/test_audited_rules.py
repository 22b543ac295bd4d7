# SPDX-License-Identifier: MIT
"""Rules from an audit of real traffic let that traffic through, and no other, on this host's kernel."""

from __future__ import annotations

import json
from pathlib import Path

from tests.audited import EVERY_WAY, MERGES, SCOPES, SEEN, audit, audited_rules_hold
from tests.truth import needs_firewalls, world

pytestmark = needs_firewalls


def test_every_way(tmp_path: Path) -> None:
    """Each firewall, in every scope and merge mode."""
    audited_rules_hold(tmp_path, EVERY_WAY)


def test_a_store_gives_the_rules_of_a_log(tmp_path: Path) -> None:
    """With the same counts and times, and let through all that is stored; it tells what was lost, which a log can't."""
    log, store = tmp_path / "seen.jsonl", tmp_path / "seen.db"
    with world() as host:
        audit(
            host,
            "-o",
            "json",
            "-O",
            f"json:file:{log}",
            "-o",
            "sqlite",
            "-O",
            f"sqlite:file:{store}",
            times=3,
        )
        for scope in SCOPES:
            for merge in MERGES:
                made = tmp_path / f"{scope}-{merge}"
                shaped = ["--scope", scope, "--merge", merge]
                *reports, of_log, _, proof, of_store = host.pyegress(
                    [
                        ["rules", "--as", "json", *shaped, log],
                        ["rules", "--as", "json", *shaped, store],
                        ["rules", "--policy", "drop", *shaped, log],
                        ["rules", "--policy", "drop", *shaped, "--file", made, store],
                        ["rules", "--verify", made, store],
                        ["rules", "--policy", "drop", *shaped, store],
                    ]
                )
                first, second = map(json.loads, reports)
                assert first["rules"] == second["rules"] and first["rules"]
                evidence = first.pop("evidence"), second.pop("evidence")
                assert first == second
                for each in "since", "until", "last_new", "destinations":
                    assert evidence[0][each] == evidence[1][each]
                assert statements(of_log) == statements(of_store) == statements(made.read_text())
                assert proof.startswith("0 of ") and " would be dropped" in proof
                assert "A log does not tell" in of_log
                assert "A log does not tell" not in of_store and "INCOMPLETE" not in of_store


def test_what_a_store_lost_is_told_with_its_rules(tmp_path: Path) -> None:
    """Though the audit itself has long ended."""
    store = tmp_path / "seen.db"
    with world() as host:
        audit(host, "-o", "sqlite", "-O", f"sqlite:file:{store}", "-O", "sqlite:rows:4")
        (rules,) = host.pyegress([["rules", store]])
    lost = sum(map(len, SEEN.values())) - 4
    assert f"# lost: {lost} (output sqlite: more different connections than -O sqlite:rows)\n" in rules
    assert "# INCOMPLETE: " in rules


def statements(rules: str) -> list[str]:
    """Without the comments."""
    return [line for line in rules.splitlines() if not line.lstrip().startswith("#")]

# SPDX-License-Identifier: MIT
"""Rules from an audit of real traffic let that traffic through, and no other, on this host's kernel."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from tests.audited import Way, audited_rules_hold
from tests.truth import FIREWALLS, needs_firewalls


@needs_firewalls
def test_every_way(tmp_path: Path) -> None:
    """Each firewall, in every scope and merge mode."""
    scopes, merges = ("any", "user", "unit"), ("exact", "ports", "prefix")
    audited_rules_hold(tmp_path, [Way(*each) for each in product(FIREWALLS, scopes, merges)])

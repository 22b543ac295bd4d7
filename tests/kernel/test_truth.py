# SPDX-License-Identifier: MIT
"""Rules from an audit let what was seen through, and nothing else, on kernels of distributions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audited import Way, audited_rules_hold

pytestmark = [pytest.mark.guest("6.1", "6.12")]


def test_audited_rules_hold(tmp_path: Path) -> None:
    """Each scope, merge mode and firewall once; the host's own test tries them all together."""
    audited_rules_hold(
        tmp_path,
        [
            Way("nft", "unit", "exact"),
            Way("nft", "user", "prefix", "reject"),
            Way("iptables-nft", "user", "ports"),
            Way("iptables-legacy", "unit", "prefix"),
            Way("iptables-legacy", "any", "ports", "reject"),
        ],
    )

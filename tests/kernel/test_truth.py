# SPDX-License-Identifier: MIT
"""Rules let what was seen through, and nothing else, on kernels of distributions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.audited import EVERY_PAIR, audited_rules_hold
from tests.madeup import OPTIONS, SEEN, rules_hold
from tests.truth import FIREWALLS, Actor, Sent, World, world

pytestmark = [pytest.mark.guest("6.1", "6.12")]


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """One for all made-up observations: each leaves it as it was."""
    with world() as made:
        yield made


def test_audited_rules_hold(tmp_path: Path) -> None:
    """Each firewall in each scope and merge mode; the host's own test tries them all together."""
    audited_rules_hold(tmp_path, EVERY_PAIR)


# A guest is slow: what is found is not made smaller there, which takes a hundred times as long, and the first draw,
# for which hypothesis reads the source of all modules, may take its time.
@settings(
    max_examples=3,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seen=SEEN, options=OPTIONS)
@pytest.mark.parametrize("firewall", sorted(FIREWALLS))
def test_made_up_rules_hold(
    host: World, firewall: str, seen: set[tuple[Actor, Sent]], options: dict[str, object]
) -> None:
    """Of everything that everybody sends, what leaves is what was seen."""
    rules_hold(host, firewall, seen, options)

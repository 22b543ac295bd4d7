# SPDX-License-Identifier: MIT
"""Rules for made-up observations let through what they say, on this host's kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.madeup import OPTIONS, SEEN, rules_hold
from tests.truth import FIREWALLS, Actor, Sent, World, needs_firewalls, world

pytestmark = needs_firewalls


@pytest.fixture(scope="module")
def host() -> Iterator[World]:
    """One for all: each test leaves it as it was."""
    with world() as made:
        yield made


@settings(max_examples=24, deadline=None)
@given(firewall=st.sampled_from(sorted(FIREWALLS)), seen=SEEN, options=OPTIONS)
def test_what_was_seen_leaves_and_nothing_else(
    host: World, firewall: str, seen: set[tuple[Actor, Sent]], options: dict[str, object]
) -> None:
    rules_hold(host, firewall, seen, options)

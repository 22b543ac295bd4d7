# SPDX-License-Identifier: MIT
"""What the tests of netfilter share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns import own_netns


@pytest.fixture
def netns() -> Iterator[None]:
    """The test runs in a network namespace of its own."""
    with own_netns():
        yield

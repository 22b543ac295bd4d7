# SPDX-License-Identifier: MIT
"""Fixtures of the tests that run in guest kernels."""

from __future__ import annotations

import pytest

from tests.kernel import observing


@pytest.fixture(scope="session")
def routes() -> None:
    """The guest's network is laid."""
    observing.lay_routes()

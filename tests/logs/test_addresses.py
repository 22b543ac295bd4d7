# SPDX-License-Identifier: MIT
"""Addresses of logs are addresses."""

from __future__ import annotations

import pytest

from pyegress.logs.addresses import ip_version


@pytest.mark.parametrize(
    ("text", "version"),
    [("192.0.2.1", 4), ("2001:db8::1", 6), ("::", 6), ("fe80::1%eth0", 6), ("::ffff:192.0.2.1", 6)],
)
def test_version(text: str, version: int) -> None:
    assert ip_version(text) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4/8",
        "1.2.3.4%eth0",
        "::1%",
        ":",
        "a",
        "1.2.3.4\0",
        "é",
        "\udcff",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        ip_version(text)

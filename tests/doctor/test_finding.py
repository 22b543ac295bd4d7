# SPDX-License-Identifier: MIT
"""Errors of ours as findings."""

import msgspec
import pytest

from pyegress.doctor.finding import Finding, of_error
from pyegress.errors import EgressError


@pytest.mark.parametrize(
    ("text", "detail", "remedy"),
    [
        (
            "nflog: group 0: EPERM: needs CAP_NET_ADMIN; run as root",
            "group 0: EPERM: needs CAP_NET_ADMIN",
            "run as root",
        ),
        ("nft: broken", "broken", None),
        ("cause; way; on", "cause", "way; on"),
        ("nft", "nft", None),
    ],
)
def test_error(text: str, detail: str, remedy: str | None) -> None:
    """The cause without the name that stands before it, and the way on."""
    name = text.partition(":")[0] if ":" in text else "nft"
    assert of_error(name, EgressError(text)) == Finding(name, "fails", detail, remedy)


def test_error_that_only_limits() -> None:
    """The state can be another one."""
    assert of_error("x", EgressError("y"), "limited").state == "limited"


def test_keys() -> None:
    """They are promised to programs, also where there is nothing to do."""
    encoded = msgspec.json.encode(Finding("btf", "works", "there"))
    assert encoded == b'{"name":"btf","state":"works","detail":"there","remedy":null}'

# SPDX-License-Identifier: MIT
"""What else decides; hosts that lack a program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyegress.apply import backends
from pyegress.apply.chain import Chain
from pyegress.apply.table import Table
from pyegress.rules import live
from tests.netns import needs_netfilter, own_netns, run

pytestmark = needs_netfilter


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Of the test's own."""
    with own_netns():
        yield


def test_nothing_else_is_nothing_to_say() -> None:
    """And looking makes no table."""
    for part in (Table("", b""), Chain("", b"", 4), Chain("", b"", 6)):
        assert list(backends.notices([part])) == []
    assert backends.removed("pyegress") == []
    assert run("nft list ruleset") == ""
    assert run("cat /proc/net/ip_tables_names") == ""


def test_legacy_tables_are_said() -> None:
    """Where iptables is the nft one."""
    run("iptables-legacy -L")
    assert len(list(backends.notices([Chain("", b"", 4)]))) == 1
    assert list(backends.notices([Chain("", b"", 6)])) == []


def test_tables_of_nft_itself_are_not_iptables() -> None:
    """A table of another name was not made by iptables."""
    run("nft add table ip mine")
    assert list(backends.notices([Chain("", b"", 4)])) == []


@pytest.mark.parametrize("missing", ["nft", "iptables"])
def test_hosts_with_one_of_them(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is enough."""
    run("nft add table inet pyegress && iptables -N PYEGRESS")
    found = live.found
    monkeypatch.setattr(live, "found", lambda name: None if name.startswith(missing) else found(name))
    said = backends.removed("pyegress")
    assert said == [
        "chain PYEGRESS of iptables-nft removed" if missing == "nft" else "table inet pyegress removed"
    ]


def test_host_that_names_no_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iptables from before there were two."""
    run("iptables -N PYEGRESS && ip6tables -N PYEGRESS")
    found = live.found
    monkeypatch.setattr(
        live, "found", lambda name: None if "-nft-" in name or "-legacy-" in name else found(name)
    )
    assert backends.removed("pyegress") == [
        "chain PYEGRESS of iptables removed",
        "chain PYEGRESS of ip6tables removed",
    ]

# SPDX-License-Identifier: MIT
"""Rules that are loaded and removed are noticed; addresses in sets, and other tables, are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyegress.apply.changes import Changes, changed
from pyegress.apply.namesets import fill, loaded
from tests.apply.test_namesets import addresses, load_nft
from tests.netns import needs_netfilter, own_netns, run
from tests.rules.test_ipset import load


@needs_netfilter
def test_what_happened() -> None:
    """Once for each time, of the table and of iptables-nft."""
    with own_netns():
        changes = Changes("pyegress")
        try:
            assert not changes.happened()
            for _ in range(2):
                load_nft()
                assert changes.happened()
                assert not changes.happened()
            fill(loaded("pyegress"), {"a.example": addresses("192.0.2.60", "192.0.2.61")}, "pyegress")
            run("nft add table inet other && nft add chain inet other output && nft delete table inet other")
            assert not changes.happened()
            run("iptables-nft -A OUTPUT -p tcp -j ACCEPT")
            assert changes.happened()
            run("nft delete table inet pyegress")
            assert changes.happened()
        finally:
            changes.close()


@needs_netfilter
def test_too_many_to_know() -> None:
    """Count as a change."""
    with own_netns():
        run("nft add table inet other")
        changes = Changes("pyegress")
        try:
            load("".join(f"add chain inet other c{at}\n" for at in range(20_000)), "nft", "-f", "-")
            assert changes.happened()
            assert not changes.happened()
        finally:
            changes.close()


@given(st.binary(max_size=200), st.integers(0, 12))
def test_any_datagram(tail: bytes, kind: int) -> None:
    """Is read or left."""
    head = (20 + len(tail)).to_bytes(4, "little") + bytes((kind, 10)) + bytes(14)
    assert len(list(changed(head + tail))) <= 20

# SPDX-License-Identifier: MIT
"""What an entry asks for when nothing is said."""

from pyegress.rules.firewall import Entry, Firewall


def test_nothing_said_is_nothing_asked() -> None:
    """It is for every packet, and what a chain doesn't decide passes."""
    entry = Entry(line=1, text="accept", verdict="accept")
    asked = (entry.family, entry.protocol, entry.network, entry.dports, entry.uids, entry.cgroup)
    assert set(asked) == {None}
    assert not (entry.established or entry.loopback or entry.unknown)
    assert Firewall(kind="nftables", families=(4,), entries=(entry,)).policy == "accept"

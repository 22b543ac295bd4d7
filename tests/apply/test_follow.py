# SPDX-License-Identifier: MIT
"""Answers that pass fill the sets of loaded names; tests/test_rules_by_name.py has connections that follow them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.apply import follow
from pyegress.apply.follow import Follower, Kept
from pyegress.apply.namesets import NameSet
from pyegress.names.servers import Servers
from pyegress.rules import nft
from pyegress.rules.hostnames import IPSET_PREFIX, set_name
from tests.apply.test_namesets import PLAN, addresses, held, load_nft
from tests.applying import backend_path
from tests.names.resolving import SERVER, asked, dnsmasq, needs_resolver
from tests.netns import needs_netfilter, own_netns, run
from tests.rules.test_bynames import CDN
from tests.rules.test_ipset import load, needs_ipset, rules_of, sets_of

pytestmark = [needs_netfilter, needs_resolver]

FOUND = "198.18.9.1"
RECORDS = (
    f"--host-record=a.example,{FOUND},2001:db8::9",
    "--cname=www.a.example,a.example",
    "--host-record=b.example,198.18.9.2",
)


@contextmanager
def resolver(*records: str) -> Iterator[None]:
    """One at SERVER, which all ask."""
    with dnsmasq(lambda *words: [*map(str, words)], SERVER, "--no-resolv", *records):
        yield


@contextmanager
def follower(said: list[str]) -> Iterator[Follower]:
    """One that believes SERVER, and tells what it complains of."""
    made = Follower("pyegress", Servers(addresses(SERVER)), said.append)
    try:
        yield made
    finally:
        made.close()


def take(following: Follower) -> None:
    """Have it take all that passed."""
    following.stop()
    following.run()


def test_added_once_and_again_after_rules_are_loaded() -> None:
    """Of the names with rules alone, also where an alias leads to one; an answer that changes nothing adds nothing."""
    said: list[str] = []
    with own_netns(), resolver(*RECORDS):
        load_nft()
        with follower(said) as following:
            asked("b.example.")
            take(following)
            assert (following.added, list(held())) == (0, [CDN])
            asked("www.a.example.")
            take(following)
            assert (following.added, set(held())) == (1, {CDN, FOUND})
            for kind in ("A", "AAAA"):
                asked("a.example.", kind)
            take(following)
            assert following.added == 2
            load_nft()
            assert list(held()) == [CDN]
            asked("a.example.")
            take(following)
            assert (following.added, set(held())) == (3, {CDN, FOUND})
            # Who waits too long asks again.
            assert following.answers >= 5
            assert (following.names, following.failed) == (1, 0)
            assert following.losses().lines() == []
    assert said == []


def test_of_others_and_of_no_hosts() -> None:
    """A server that isn't configured is not believed, an address that no rule can be for is left out."""
    records = ("--host-record=a.example,169.254.0.1", f"--host-record=a.example,{FOUND}")
    with own_netns(), resolver(*records), dnsmasq(lambda *words: [*map(str, words)], "198.18.0.54", *RECORDS):
        load_nft()
        with follower([]) as following:
            asked("a.example.", server="198.18.0.54")
            take(following)
            assert (following.added, following.answers) == (0, 0)
            (line,) = following.losses().lines()
            assert line.endswith(" DNS messages of servers that are not configured")
            assert len(asked("a.example.")) == 2
            take(following)
            assert set(held()) == {CDN, FOUND}


def test_a_set_that_takes_no_more() -> None:
    """Is said once, and counted each time; so is what is beyond our own limit."""
    said: list[str] = []
    with own_netns(), resolver(*RECORDS):
        text = "".join(f"{line}\n" for line in nft.lines(PLAN, "pyegress", lambda path: True))
        load(text.replace("flags timeout", "size 1; flags timeout"), "nft", "-f", "-")
        with follower(said) as following:
            for failed in (1, 2):
                asked("a.example.")
                take(following)
                assert (following.added, following.failed) == (0, failed)
    assert len(said) == 1
    assert said[0].startswith("nft: ")
    assert said[0].endswith("; names are still followed")


def test_whoever_answers_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond it is counted."""
    monkeypatch.setattr(follow, "MOST_OF_SET", 2)
    many = (f"--host-record=a.example,198.18.9.{at}" for at in range(1, 6))
    with own_netns(), resolver(*many):
        load_nft()
        with follower([]) as following:
            asked("a.example.")
            take(following)
            assert len(held()) == 3
            assert following.losses().lines() == ["lost: 3 addresses of names that had 2 already"]


@needs_ipset
def test_sets_of_ipset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the kernel tells no changes: what is loaded is seen when asked for, what is gone when it is used."""
    monkeypatch.setenv("PATH", backend_path(tmp_path, "legacy"))
    made_set = set_name(IPSET_PREFIX, "a.example", 4)
    said: list[str] = []
    with own_netns(), resolver(*RECORDS), follower(said) as following:
        load(sets_of(PLAN), "ipset", "restore")
        load(rules_of(PLAN, 4), "iptables-restore", "--noflush")
        asked("a.example.")
        take(following)
        assert (following.names, following.added) == (0, 0)
        following.look_again()
        asked("a.example.")
        take(following)
        assert (following.names, following.added) == (1, 1)
        assert f"add {made_set} {FOUND} " in run("ipset save")
        run("iptables -F && ipset destroy")
        following.learn_each([("198.18.9.4", 1)], ["a.example"], "dns", 0)
        take(following)
        assert (following.names, following.added, following.failed, said) == (0, 1, 0, [])


def test_when_an_address_is_wanted_again() -> None:
    """After half of the set's time; what is over counts no more."""
    one, two, six = addresses("192.0.2.1", "192.0.2.2", "2001:db8::1")
    kept = Kept(NameSet("a.example", 4, "nftables"), 10.0)
    assert [kept.wants(each, 100.0) for each in (one, six)] == [True, False]
    kept.put([one], 100.0)
    kept.put([two], 103.0)
    assert [kept.wants(one, now_s) for now_s in (100.0, 104.9, 105.0)] == [False, False, True]
    kept.put([one], 106.0)
    assert (kept.wants(one, 110.0), len(kept)) == (False, 2)
    assert (kept.wants(one, 113.0), len(kept), two in kept) == (True, 1, False)

# SPDX-License-Identifier: MIT
"""Files for ipset: read as they were written, taken by the real one, and looked into by loaded rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from pyegress.errors import InputError
from pyegress.rules import ipset, live
from pyegress.rules.addresses import Family
from pyegress.rules.diff import compare
from pyegress.rules.iptables import restore_lines
from pyegress.rules.read_iptables import own_chain, read_text
from pyegress.rules.shape import Plan
from tests.netns import own_netns
from tests.rules.test_bynames import CDN, OTHER, made, seen

NAMED = made(
    seen(CDN, 443, "a.example", "b.example"),
    seen(CDN, 80, "a.example"),
    seen(OTHER, 443, "a.example"),
    seen("2001:db8::1", 443, "c.example"),
)
FAMILIES: tuple[Family, ...] = (4, 6)

needs_ipset = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ipset") or not shutil.which("iptables-restore"),
    reason="needs root, ipset and iptables",
)


def sets_of(plan: Plan) -> str:
    """The file for ipset."""
    return "".join(f"{line}\n" for line in ipset.lines(plan, FAMILIES))


def rules_of(plan: Plan, family: Family) -> str:
    """The file for iptables-restore."""
    return "".join(f"{line}\n" for line in restore_lines(plan, family, lambda path: True))


def load(text: str, *words: str) -> str:
    """Have a program take it; what it says."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def addresses(sets: ipset.Sets) -> Sequence[list[str]]:
    """In the order of the sets' names."""
    return [sorted(map(str, sets[name])) for name in sorted(sets)]


def test_read_as_written() -> None:
    """All addresses of each name, and the rules look into them."""
    sets = ipset.read_text(sets_of(NAMED))
    assert addresses(sets) == [[CDN, OTHER], ["2001:db8::1"]]
    text = rules_of(NAMED, 4)
    own_chain(text)
    (read,) = read_text(text, 4, sets=sets)
    accepted = [entry for entry in read.entries if entry.verdict == "accept"]
    assert [(str(entry.network), entry.dports, entry.comment) for entry in accepted] == [
        (address, ((80, 80), (443, 443)), "a.example") for address in (CDN, OTHER)
    ]
    assert not any(entry.unknown for entry in accepted)
    (without,) = read_text(text, 4)
    assert all(entry.unknown for entry in without.entries if entry.verdict == "accept")


@pytest.mark.parametrize(
    "line",
    [
        "create x hash:ip family inet timeout 60",
        "add pyegress4_a_exampl_aaaaaaaaaaaa 192.0.2.1",
        "flush",
        "destroy pyegress4_a_exampl_aaaaaaaaaaaa",
        "create pyegress4_a_exampl_aaaaaaaaaaaa hash:net family inet timeout 60",
        "create pyegress4_a_exampl_aaaaaaaaaaaa hash:ip family inet\nadd pyegress4_a_exampl_aaaaaaaaaaaa 2001:db8::1",
        "create pyegress4_a_exampl_aaaaaaaaaaaa hash:ip family inet\nadd pyegress4_a_exampl_aaaaaaaaaaaa 0.0.0.0/0",
    ],
)
def test_refused(line: str) -> None:
    """What else a file does is an error with its line; in a listing it is somebody else's."""
    with pytest.raises(InputError, match=r"^ipset: line \d: .*: is not understood$"):
        ipset.read_text(line)
    assert not any(ipset.read_text(line, strict=False).values())


@needs_ipset
def test_loaded() -> None:
    """By the real ipset, twice; rules that look into the sets are those of the files, whatever was added since."""
    with own_netns():
        for _ in range(2):
            load(sets_of(NAMED), "ipset", "restore")
        sets = ipset.read_text(load("", "ipset", "save"))
        assert addresses(sets) == [[CDN, OTHER], ["2001:db8::1"]]
        for program, family in (("iptables", FAMILIES[0]), ("ip6tables", FAMILIES[1])):
            load(rules_of(NAMED, family), f"{program}-restore", "--noflush")
        first = sorted(sets)[0]
        load(f"add {first} 192.0.2.99\ndel {first} {CDN}\n", "ipset", "restore")
        for family in FAMILIES:
            wanted = read_text(rules_of(NAMED, family), family, sets=sets)
            assert compare(wanted, live.iptables_chain(family)).is_same
        load(f"flush {first}", "ipset", "restore")
        assert compare(read_text(rules_of(NAMED, 4), 4, sets=sets), live.iptables_chain(4)).is_same
        (empty,) = live.iptables_chain(4)
        assert not any(entry.verdict == "accept" and not entry.unknown for entry in empty.entries)

# SPDX-License-Identifier: MIT
"""Lines change tables as they do in iptables."""

from __future__ import annotations

import pytest

from pyegress.errors import InputError
from pyegress.rules.firewall import Entry
from pyegress.rules.iptables_tables import Tables
from pyegress.rules.iptables_words import restore_words


def done(*lines: str, live: bool = False, family: int = 4) -> Tables:
    tables = Tables(family, live)  # type: ignore[arg-type]
    for number, line in enumerate(lines, 1):
        tables.run(number, line, "filter", restore_words)
    return tables


def entries(*lines: str, live: bool = False, family: int = 4) -> tuple[Entry, ...]:
    ((firewall),) = done(*lines, live=live, family=family).firewalls()
    return firewall.entries


def ports(*lines: str) -> list[int]:
    return [entry.dports[0][0] for entry in entries(*lines) if entry.dports]


def rule(port: int) -> str:
    return f"OUTPUT -p tcp --dport {port} -j ACCEPT"


def at(place: int, port: int) -> str:
    return f"-I OUTPUT {place} -p tcp --dport {port} -j ACCEPT"


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ([f"-A {rule(1)}", f"--append {rule(2)}"], [1, 2]),
        ([f"-I {rule(1)}", f"--insert {rule(2)}"], [2, 1]),
        ([f"-A {rule(1)}", f"-A {rule(2)}", at(2, 3), at(4, 4)], [1, 3, 2, 4]),
        ([f"-A {rule(1)}", "-F OUTPUT", f"-A {rule(2)}"], [2]),
        ([f"-A {rule(1)}", "-F", f"-A {rule(2)}"], [2]),
        ([f"-t filter -w 5 -A {rule(1)}", f"-w -A {rule(2)}", f"-4 -A {rule(3)}", f"-6 -A {rule(4)}"], [1, 2, 3]),
        (["-N A", "-A A -p tcp --dport 1", "-A OUTPUT -j A", f"-t raw -A {rule(2)}"], [1]),
    ],
)  # fmt: skip
def test_order(lines: list[str], order: list[int]) -> None:
    assert ports(*lines) == order


def test_places_texts_and_hits() -> None:
    """The kernel's rules have no places."""
    lines = ["[5:300] -A OUTPUT -j DROP", "-A OUTPUT -j ACCEPT"]
    assert [(each.line, each.text, each.hits) for each in entries(*lines)] == [
        (1, "-A OUTPUT -j DROP", 5),
        (2, "-A OUTPUT -j ACCEPT", None),
    ]
    assert [(each.line, each.hits) for each in entries(*lines, live=True)] == [(0, 5), (0, None)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-D OUTPUT 1", "line 2: -D: only -A, -I, -N, -P, -F and -X are understood"),
        ("-A", "line 2: -A: a chain's name is missing"),
        ("-I OUTPUT 3 -j ACCEPT", "line 2: -I OUTPUT 3: the chain has 0 rules"),
        ("-P OUTPUT REJECT", "line 2: -P OUTPUT: the policy is ACCEPT or DROP"),
        ('-A OUTPUT -m comment --comment "x', "line 2: a double quote is not closed"),
        ("-A OUTPUT -p tcp --dport \x1b[31m", r"line 2: \\u001b\[31m: no such port"),
        ("-w", "line 2: no command such as -A"),
    ],
)
def test_errors_of_files(line: str, message: str) -> None:
    """With the line; hostile text is shown as it is everywhere."""
    with pytest.raises(InputError, match=message):
        done("-P OUTPUT DROP", line)


def test_live_rules_are_never_an_error() -> None:
    """What can't be read may drop."""
    given = entries("-A OUTPUT -p tcp --dport nonsense -j ACCEPT", "-D OUTPUT 1", "", live=True)
    assert [(entry.verdict, entry.unknown) for entry in given] == [("drop", ("not understood",))]


def test_firewalls() -> None:
    """The filter always, other tables where they may drop, in the order in which packets pass."""
    tables = done(
        "-A OUTPUT -j ACCEPT", "-t mangle -A OUTPUT -j MARK --set-mark 1", "-t raw -A OUTPUT -j DROP"
    )
    tables.declare(4, "security", ["OUTPUT", "DROP", "[0:0]"])
    tables.declare(5, "nat", ["OUTPUT", "DROP", "[0:0]"])
    firewalls = tables.firewalls()
    assert [(each.policy, len(each.entries), each.families) for each in firewalls] == [
        ("accept", 1, (4,)),
        ("accept", 1, (4,)),
        ("drop", 0, (4,)),
    ]
    assert [each.entries[0].verdict for each in firewalls[:2]] == ["drop", "accept"]
    with pytest.raises(InputError, match="line 6: :X: a chain's name and policy are missing"):
        tables.declare(6, "filter", ["X"])


def test_policy() -> None:
    ((firewall),) = done("-P OUTPUT DROP", "--policy FORWARD DROP").firewalls()
    assert firewall.policy == "drop"

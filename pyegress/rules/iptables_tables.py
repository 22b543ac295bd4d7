# SPDX-License-Identifier: MIT
"""The tables of iptables, filled line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.rules.addresses import Family
from pyegress.rules.firewall import Entry, Firewall, Verdict
from pyegress.rules.ipset import Sets
from pyegress.rules.iptables_chains import Chain, Table, laid_out
from pyegress.rules.iptables_rule import Line, rule_of
from pyegress.rules.iptables_words import BadLineError

_TABLES = ("raw", "mangle", "filter", "security")
"""Those that decide, in the order in which a packet passes them."""
_POLICIES: dict[str, Verdict] = {"ACCEPT": "accept", "DROP": "drop"}
COUNTS = re.compile(r"\[([0-9]+):[0-9]+\] *")
_LONG = {
    "--append": "-A",
    "--insert": "-I",
    "--new-chain": "-N",
    "--policy": "-P",
    "--flush": "-F",
    "--delete-chain": "-X",
}


class _Call(NamedTuple):
    """A command to iptables."""

    command: str
    table: str
    words: Sequence[str]


class Tables:
    """Filled line by line."""

    def __init__(self, family: Family, live: bool, sets: Sets | None = None) -> None:
        self._family = family
        self._sets = sets
        self._live = live
        self._tables: dict[str, Table] = {}

    def named(self, table: str) -> Table:
        """It, made where it isn't there."""
        return self._tables.setdefault(table, {})

    def refuse(self, number: int, why: str) -> None:
        """For files; the kernel's rules are what they are."""
        if not self._live:
            raise InputError(f"line {number}: {display(why)}")

    def declare(self, number: int, table: str, words: Sequence[str]) -> None:
        """A line such as `:OUTPUT DROP [0:0]`; with --noflush too it empties a chain that is the user's own."""
        if len(words) < 2:
            self.refuse(number, f":{' '.join(words)}: a chain's name and policy are missing")
            return
        name, policy = words[:2]
        chain = self.named(table).setdefault(name, Chain())
        if policy == "-":
            chain.lines.clear()
        else:
            chain.policy = _POLICIES.get(policy, "accept")

    def run(
        self, number: int, line: str, table: str, split: Callable[[str], list[str]], text: str | None = None
    ) -> None:
        """A line with a command to iptables."""
        hits = None
        if counts := COUNTS.match(line):
            hits, line = int(counts[1]), line[counts.end() :]
        text = line.strip() if text is None else text
        try:
            call = _call(split(line), table, self._family)
            if call is not None:
                self._do(call, lambda words: self._rule(words, number, text, hits))
        except BadLineError as error:
            self.refuse(number, str(error))
            if match := re.match(r"-A (\S+)", line):
                self._add_unread(table, match[1], text, hits)

    def firewalls(self) -> list[Firewall]:
        """The filter, and others that may drop."""
        made = []
        for name in _TABLES:
            table = self._tables.get(name)
            if table is None:
                continue
            firewall = Firewall(
                kind="iptables",
                families=(self._family,),
                entries=laid_out(table),
                policy=table["OUTPUT"].policy if "OUTPUT" in table else "accept",
            )
            drops = any(entry.verdict in ("drop", "reject") for entry in firewall.entries)
            if name == "filter" or drops or firewall.policy == "drop":
                made.append(firewall)
        return made

    def filters(self, through: str | None) -> list[Firewall]:
        """OUTPUT of the table filter; with a chain's name only what goes through that chain, which must be there."""
        table = self._tables.get("filter", {})
        output = table.get("OUTPUT", Chain())
        if through is not None:
            if through not in table:
                return []
            lines = [line for line in output.lines if line.target == through]
            table = {**table, "OUTPUT": Chain(output.policy, lines)}
        entries = laid_out(table)
        return [Firewall(kind="iptables", families=(self._family,), entries=entries, policy=output.policy)]

    def _rule(self, words: Sequence[str], number: int, text: str, hits: int | None) -> Line:
        return rule_of(words, self._family, self._place(number), text, hits, self._sets)

    def _place(self, number: int) -> int:
        return 0 if self._live else number

    def _do(self, call: _Call, rule: Callable[[Sequence[str]], Line]) -> None:
        table = self.named(call.table)
        if not call.words:
            if call.command not in ("-F", "-X"):
                raise BadLineError(f"{call.command}: a chain's name is missing")
            for chain in table.values():
                chain.lines.clear()
            return
        name, *words = call.words
        chain = table.setdefault(name, Chain())
        if call.command == "-A":
            chain.lines.append(rule(words))
        elif call.command == "-I":
            at = int(words.pop(0)) if words and re.fullmatch(r"[0-9]{1,9}", words[0]) else 1
            if not 1 <= at <= len(chain.lines) + 1:
                raise BadLineError(f"-I {name} {at}: the chain has {len(chain.lines)} rules")
            chain.lines.insert(at - 1, rule(words))
        elif call.command == "-P":
            if words[:1] not in (["ACCEPT"], ["DROP"]):
                raise BadLineError(f"-P {name}: the policy is ACCEPT or DROP")
            chain.policy = _POLICIES[words[0]]
        elif call.command in ("-F", "-X"):
            chain.lines.clear()

    def _add_unread(self, table: str, chain: str, text: str, hits: int | None) -> None:
        entry = Entry(
            line=0, text=text, verdict="drop", family=self._family, unknown=("not understood",), hits=hits
        )
        self.named(table).setdefault(chain, Chain()).lines.append(Line((entry,), "DROP", False))


def _call(words: list[str], table: str, family: Family) -> _Call | None:
    """What a line asks for; None where it is for the other family."""
    before = []
    while words and _LONG.get(words[0], words[0]) not in _LONG.values():
        before.append(words.pop(0))
    for at, word in enumerate(before):
        if word in ("-4", "-6") and word != f"-{family}":
            return None
        if word in ("-t", "--table"):
            table = before[at + 1] if at + 1 < len(before) else table
        elif word not in ("-4", "-6", "-w", "--wait", "-v", "--verbose") and before[at - 1 : at] not in (
            ["-t"],
            ["--table"],
            ["-w"],
            ["--wait"],
        ):
            raise BadLineError(f"{word}: only -A, -I, -N, -P, -F and -X are understood")
    if not words:
        raise BadLineError("no command such as -A")
    return _Call(_LONG.get(words[0], words[0]), table, words[1:])

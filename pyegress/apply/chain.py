# SPDX-License-Identifier: MIT
"""Our iptables chain and the jump to it: loaded, put back and removed together, in one transaction of the table.

iptables-restore with --noflush adds what it reads, so the jumps that are there are deleted in the same input: after
it there are exactly those that it brings, and no moment with none or with two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from pyegress.apply import programs
from pyegress.apply.part import Part, unrestorable
from pyegress.apply.programs import ProgramError
from pyegress.errors import EgressError, InputError
from pyegress.escape import display
from pyegress.kernel import cgroup2_root
from pyegress.rules import ipset
from pyegress.rules.addresses import Family
from pyegress.rules.iptables import CHAIN, PROGRAM

_RULE = re.compile(r"(?P<counts>\[\d+:\d+\]) -A (?P<chain>\S+) (?P<match>.*)")
COMMENT = re.compile(r'--comment (?:"(?:[^"\\]|\\.)*"|\S+)')
_CGROUP = re.compile(r'(?<!! )--path (?:"((?:[^"\\]|\\.)*)"|(\S+))')
_NO_SET = re.compile(r"Set \S+ doesn't exist")
_TABLE_LINE = re.compile(rb"^\*filter[ \t]*\n", re.MULTILINE)
_RESTORE = ("--noflush", "-w", "10")


class IncompatibleError(EgressError):
    """There are rules in the table that iptables has no words for."""


class Jump(NamedTuple):
    """A rule of OUTPUT that leads to our chain."""

    place: int
    """In OUTPUT, from 1."""
    counts: str
    match: str
    """The rule without its chain."""


class State(NamedTuple):
    """All of ours in the table filter, and how much else it is tied to."""

    rules: tuple[str, ...] | None
    """With their counts; None where there is no chain."""
    jumps: tuple[Jump, ...]
    others: int
    """Rules of OUTPUT that are not ours."""
    users: tuple[str, ...]
    """Other chains that lead to ours; somebody else made them, and they stay."""


NOTHING = State(None, (), 0, ())
_UNREADABLE = State((), (Jump(1, "[0:0]", f"-j {CHAIN}"),), 1_000_000, ("unknown",))
"""What must be there after our own load, where nft has put in something meanwhile that iptables can't read."""


class Chain(Part):
    """PYEGRESS of the table filter, for one family."""

    def __init__(self, where: str, text: bytes, family: Family, backend: str = "") -> None:
        super().__init__(where, text)
        tables = PROGRAM[family]
        self.family = family
        self.what = f"chain {CHAIN} of {tables}{backend}"
        self._save = f"{tables}{backend}-save"
        self._restore = f"{tables}{backend}-restore"
        self._before = NOTHING

    def check(self) -> None:
        added, text = self._with_jumps_deleted()
        try:
            self._run(text, "--test")
        except ProgramError as error:
            if _NO_SET.match(error.complaint.text):
                hint = f"load the sets first: ipset restore < {ipset.beside(self._where)}"
                complaint = error.complaint._replace(
                    text=f"{error.complaint.text.rstrip('.')}; {display(hint)}"
                )
                error = ProgramError(self._restore, complaint)
            self._refuse(error, added)

    def remember(self) -> None:
        self._before = self.state()
        try:
            self._run(transaction(self._before, self._before), "--test")
        except ProgramError as error:
            raise unrestorable(self.what, error) from error

    def load(self) -> None:
        self._run(self._with_jumps_deleted()[1])

    def take_back(self) -> str:
        try:
            now = self.state()
        except IncompatibleError:
            now = _UNREADABLE
        self._run(transaction(now, self._before), "--counters")
        if self._before.rules is not None:
            return f"{self.what} is as it was before"
        return f"{self.what} {'emptied' if now.users else 'removed'}"

    def remove(self) -> str | None:
        try:
            now = self.state()
        except IncompatibleError:
            if not self._nft_sees_it():
                return None
            raise
        if now.rules is None:
            return None
        self._run(transaction(now, NOTHING))
        if now.users:
            return f"{self.what} emptied; it is still there because chain {display(now.users[0])} leads to it"
        return f"{self.what} removed"

    def size(self) -> str:
        rules = len(self.state().rules or ())
        return f"{rules} rule{'' if rules == 1 else 's'}"

    def state(self) -> State:
        """What there is now."""
        saved = programs.run(self._save, "--counters")
        if "Table `filter' is incompatible" in saved:
            raise IncompatibleError(
                f"{self._save}: table filter holds rules of nft that iptables can't read; load rules for nft instead"
            )
        return state_of(saved)

    def _nft_sees_it(self) -> bool:
        with suppress(ProgramError):
            programs.run("nft", "list", "chain", "ip" if self.family == 4 else "ip6", "filter", CHAIN)
            return True
        return False

    def _with_jumps_deleted(self) -> tuple[int, bytes]:
        """The file with the present jumps deleted behind its `*filter`, and how many lines that adds."""
        deleted = list(_deleted(self.state().jumps))
        start = _TABLE_LINE.search(self._text)
        if start is None:
            raise InputError(f"{display(self._where)}: has no line `*filter`; nothing was changed")
        return len(deleted), self._text[: start.end()] + _bytes(deleted) + self._text[start.end() :]

    def _run(self, text: bytes, *arguments: str) -> None:
        if text:
            programs.run(self._restore, *_RESTORE, *arguments, text=text)


def state_of(saved: str) -> State:
    """Ours, from what iptables-save writes with its counts."""
    chains: dict[str, list[re.Match[str]]] = {}
    table = ""
    has_chain = False
    # Comments may hold what Python takes for ends of lines.
    for line in saved.split("\n"):
        if line.startswith("*"):
            table = line[1:]
        elif table == "filter" and line.startswith(f":{CHAIN} "):
            has_chain = True
        elif table == "filter" and (rule := _RULE.fullmatch(line)):
            chains.setdefault(rule["chain"], []).append(rule)
    output = chains.get("OUTPUT", [])
    jumps = tuple(
        Jump(place, rule["counts"], rule["match"])
        for place, rule in enumerate(output, 1)
        if _leads_to_ours(rule)
    )
    return State(
        rules=tuple(f"{rule['counts']} -A {CHAIN} {rule['match']}" for rule in chains.get(CHAIN, ()))
        if has_chain
        else None,
        jumps=jumps,
        others=len(output) - len(jumps),
        users=tuple(
            name
            for name, rules in chains.items()
            if name not in ("OUTPUT", CHAIN) and any(map(_leads_to_ours, rules))
        ),
    )


def transaction(now: State, wanted: State) -> bytes:
    """What makes the one from the other, for iptables-restore; empty where there is nothing to do."""
    lines = list(_deleted(now.jumps))
    if wanted.rules is not None:
        lines += [f":{CHAIN} - [0:0]", *(rule for rule in wanted.rules if not _is_dead(rule))]
        for done, jump in enumerate(wanted.jumps):
            # Where it was, if nobody took rules out of OUTPUT meanwhile.
            place = min(jump.place, now.others + done + 1)
            lines.append(f"{jump.counts} -I OUTPUT {place} {jump.match}")
    elif now.rules is not None:
        lines += [f"-F {CHAIN}"] if now.users else [f"-F {CHAIN}", f"-X {CHAIN}"]
    return _bytes(["*filter", *lines, "COMMIT"]) if lines else b""


def _deleted(jumps: Sequence[Jump]) -> Iterator[str]:
    # By what they are rather than by number, so that no other rule can be hit.
    return (f"-D OUTPUT {jump.match}" for jump in jumps)


def _is_dead(rule: str) -> bool:
    """Whether it is for a cgroup that is gone: it matches nothing any more, and could not be loaded."""
    match = _CGROUP.search(COMMENT.sub("", rule))
    root = cgroup2_root() if match else None
    if match is None or root is None:
        return False
    path = match[2] or re.sub(r"\\(.)", r"\1", match[1])
    return not (root / path.lstrip("/")).is_dir()


def _leads_to_ours(rule: re.Match[str]) -> bool:
    """A jump to a chain has its target at its end, and a comment that ends so would end in a quote."""
    return f" {rule['match']}".endswith((f" -j {CHAIN}", f" -g {CHAIN}"))


def _bytes(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

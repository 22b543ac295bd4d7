# SPDX-License-Identifier: MIT
"""Our nftables table: loaded, put back and removed whole, each in one transaction of nft."""

from __future__ import annotations

import json
import re

from pyegress.apply import programs
from pyegress.apply.part import Part, unrestorable
from pyegress.apply.programs import ProgramError
from pyegress.errors import UnsupportedError
from pyegress.rules.nft import TABLE

_OURS = re.compile(r"pyegress[A-Za-z0-9_]*")
_DEAD_RULE = re.compile(r'^\t+(?:[^"\n]|"[^"\n]*")*?\bsocket cgroupv2 level \d+ \d+ .*\n', re.MULTILINE)
_CGROUP_SET = re.compile(
    r"^(\t+set \S+ \{\n\t+type(?:of socket cgroupv2 .*| cgroupsv2)\n(?:(?!\t+(?:\}|elements )).*\n)*)"
    r'\t+elements = \{((?:"[^"]*"|[^"}])*)\}\n',
    re.MULTILINE,
)
_ELEMENT = re.compile(r'(?:"[^"]*"|[^",])+')


class Table(Part):
    """`table inet NAME`."""

    def __init__(self, where: str, text: bytes, name: str = TABLE) -> None:
        super().__init__(where, text)
        self.name = name
        self.what = f"table inet {name}"
        self._before: str | None = None

    def check(self) -> None:
        exists(self.name)  # Tells a kernel without nf_tables from a wrong file.
        try:
            programs.run("nft", "-c", "-f", "-", text=self._text)
        except ProgramError as error:
            self._refuse(error)

    def remember(self) -> None:
        text = listing(self.name)
        self._before = None if text is None else without_dead(text)
        try:
            programs.run("nft", "-c", "-f", "-", text=self._undo())
        except ProgramError as error:
            raise unrestorable(self.what, error) from error

    def load(self) -> None:
        programs.run("nft", "-f", "-", text=self._text)

    def take_back(self) -> str:
        programs.run("nft", "-f", "-", text=self._undo())
        return f"{self.what} {'removed' if self._before is None else 'is as it was before'}"

    def remove(self) -> str | None:
        if not exists(self.name):
            return None
        programs.run("nft", "delete", "table", "inet", self.name)
        return f"{self.what} removed"

    def size(self) -> str:
        found = json.loads(programs.run("nft", "-j", "list", "table", "inet", self.name))["nftables"]
        rules = sum("rule" in each for each in found)
        elements = sum(len(each["set"].get("elem", ())) for each in found if "set" in each)
        text = f"{rules} rule{'' if rules == 1 else 's'}"
        return f"{text}, {elements} set element{'' if elements == 1 else 's'}" if elements else text

    def _undo(self) -> bytes:
        # Created first, because deleting one that isn't there would fail.
        text = f"{self.what}\ndelete {self.what}\n{self._before or ''}"
        return text.encode("utf-8", "surrogateescape")


def is_ours(name: str) -> bool:
    """Whether a table of that name is ours to replace and to remove."""
    return _OURS.fullmatch(name) is not None


def exists(name: str) -> bool:
    """Whether there is such a table of ours."""
    try:
        return f"table inet {name}" in programs.run("nft", "list", "tables", "inet").splitlines()
    except ProgramError as error:
        if "not supported" in error.complaint.text:
            raise UnsupportedError(
                f"{error}; this kernel has no nf_tables, use files for iptables"
            ) from error
        raise


def without_dead(text: str) -> str:
    """A listing without cgroups that are gone: they match nothing any more, and could not be loaded.

    nft lists a cgroup that has no path any more by its number.
    """
    return _CGROUP_SET.sub(_with_living, _DEAD_RULE.sub("", text))


def _with_living(match: re.Match[str]) -> str:
    elements = (element.strip() for element in _ELEMENT.findall(match[2]))
    living = [element for element in elements if element and not element[0].isdigit()]
    return f"{match[1]}\t\telements = {{ {', '.join(living)} }}\n" if living else match[1]


def listing(name: str) -> str | None:
    """All of a table, with the counts of its counters, as nft reads it; None where there is none."""
    return programs.run("nft", "list", "table", "inet", name) if exists(name) else None

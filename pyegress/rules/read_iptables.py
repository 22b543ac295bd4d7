# SPDX-License-Identifier: MIT
"""Rules of iptables as they were read: what iptables-save lists, files for iptables-restore, files of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.rules.addresses import Family
from pyegress.rules.firewall import Firewall
from pyegress.rules.ipset import Sets
from pyegress.rules.iptables import CHAIN
from pyegress.rules.iptables_tables import COUNTS, Tables
from pyegress.rules.iptables_words import BadLineError, OpenQuoteError, restore_words, shell_words

_COMMAND = re.compile(r"[ \t]*(?:sudo[ \t]+)?(?:/\S*/)?(ip6?)tables(?:-nft|-legacy)?[ \t]")
_LINE_BYTES = 10_000
"""iptables-restore takes what is beyond 10239 for a line of its own."""
_TEXTS = ("--comment", "--log-prefix", "--nflog-prefix", "--path")
_MATCHES = ("-p", "-s", "-d", "-i", "-o", "-m", "-j", "-g", "-f")
_OTHERS = (
    "append check delete delete-chain exact flush help insert line-numbers list list-rules modprobe new-chain policy "
    "rename-chain replace set-counters table version wait zero"
)
_ACTIONS = tuple(_OTHERS.split())
"""Other options of iptables itself; `--modprobe` even runs a program."""
_WANTED = {
    "*filter": "the file must begin with *filter",
    f":{CHAIN}": f"a line `:{CHAIN} - [0:0]` must stand before the rules",
    "jump": f"a line `-A OUTPUT -j {CHAIN}` must stand before the end",
    "COMMIT": "nothing but COMMIT and rules may follow the jump",
    "nothing more": "nothing may follow COMMIT",
}


def read_text(text: str, family: Family, *, live: bool = False, sets: Sets | None = None) -> list[Firewall]:
    """The chains that packets of that family pass on their way out, in that order.

    `live`: the kernel's rules; they have no places, and what can't be read is an unknown rule. In files it is an
    InputError with the line. A file of commands holds both families, the others one. `sets`: those of names
    that rules look into.
    """
    if not live and is_commands(text):
        return read_commands(text, family)
    return _read(text, family, live, sets).firewalls()


def read_live_filter(text: str, family: Family, own: bool, sets: Sets | None = None) -> list[Firewall]:
    """What iptables-save lists of OUTPUT in the table filter; `own`: only as it leads to PYEGRESS, if that is there."""
    return _read(text, family, True, sets).filters(CHAIN if own else None)


def _read(text: str, family: Family, live: bool, sets: Sets | None) -> Tables:
    tables = Tables(family, live, sets)
    table = ""
    for number, line in _restore_lines(text, live):
        if line.startswith("*"):
            table = line[1:].strip()
            tables.named(table)
        elif line.strip() == "COMMIT":
            table = ""
        elif not table:
            tables.refuse(
                number, f"{line[:40]}: stands in no table; a file for iptables-restore begins with *filter"
            )
        elif line.startswith(":"):
            tables.declare(number, table, line[1:].split())
        else:
            tables.run(number, line, table, restore_words)
    return tables


def read_commands(text: str, family: Family) -> list[Firewall]:
    """A file of `iptables` and `ip6tables` commands; each chain is empty before."""
    tables = Tables(family, live=False)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _COMMAND.match(line)
        if match is None:
            tables.refuse(number, f"{line[:40]}: is no command of iptables")
        elif (match[1] == "ip") == (family == 4):
            tables.run(number, line[match.end() :], "filter", shell_words, line.strip())
    return tables.firewalls()


def is_commands(text: str) -> bool:
    """Whether it is a file of commands."""
    return bool(commanded(text))


def commanded(text: str) -> frozenset[Family]:
    """The families that a file's commands are for."""
    found = filter(None, map(_COMMAND.match, text.split("\n")))
    return frozenset(4 if match[1] == "ip" else 6 for match in found)


def own_chain(text: str) -> None:
    """InputError with the line unless a file does nothing but fill PYEGRESS of the table filter and lead OUTPUT to it.

    What iptables-restore would do with it decides, so options are judged by what they begin with, as getopt does.
    """
    expected = iter(("*filter", f":{CHAIN}", "jump", "COMMIT"))
    awaited = next(expected)
    for number, line in _restore_lines(text, live=False):
        try:
            step = _step(line)
        except BadLineError as error:
            raise InputError(f"line {number}: {display(str(error))}") from None
        if step == awaited:
            awaited = next(expected, "nothing more")
        elif step != "rule" or awaited in ("*filter", f":{CHAIN}", "nothing more"):
            raise InputError(f"line {number}: {display(line[:60])}: {_WANTED[awaited]}")
    if awaited != "nothing more":
        raise InputError(f"line {text.count(chr(10)) + 1}: the end: {_WANTED[awaited]}")


def _step(line: str) -> str:
    """What a line does for our chain; BadLineError where it does anything else."""
    if len(line.encode("utf-8", "surrogateescape")) > _LINE_BYTES or "\0" in line:
        raise BadLineError(f"{line[:40]}: too long, or a NUL in it")
    if line.rstrip(" \t") in ("*filter", "COMMIT"):
        return line.rstrip(" \t")
    if line.startswith(f":{CHAIN} "):
        return f":{CHAIN}"
    words = restore_words(COUNTS.sub("", line, count=1))
    if words in (["-A", "OUTPUT", "-j", CHAIN], ["-I", "OUTPUT", "-j", CHAIN]):
        return "jump"
    if words[:2] != ["-A", CHAIN]:
        raise BadLineError(f"{line[:60]}: only the chain {CHAIN} of the table filter is ours")
    before = ""
    for word in words[2:]:
        # Behind a word that is no option a --comment surely is one, and what follows its text.
        if before in _TEXTS:
            before = "text"
        elif not _is_match(word.partition("=")[0]):
            raise BadLineError(f"{word[:40]}: does something else than match packets")
        else:
            before = word if word not in _TEXTS or before[:1] != "-" else "-"
    return "rule"


@lru_cache(4096)
def _is_match(option: str) -> bool:
    """Whether it can be an option of a match or a target, or a value; single letters that are attached are not told."""
    if option.startswith("--"):
        return len(option) > 2 and not any(each.startswith(option[2:]) for each in _ACTIONS)
    return not option.startswith("-") or option in _MATCHES or re.fullmatch(r"-[0-9]+", option) is not None


def _restore_lines(text: str, live: bool) -> Iterator[tuple[int, str]]:
    """Those that aren't comments; iptables-save lists a comment with a newline in it on two lines."""
    lines = enumerate(text.split("\n"), 1)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        while live and _is_open(line):
            more = next(lines, None)
            if more is None:
                break
            line += "\n" + more[1]
        yield number, line


def _is_open(line: str) -> bool:
    if '"' not in line:
        return False
    try:
        restore_words(line)
    except OpenQuoteError:
        return True
    return False

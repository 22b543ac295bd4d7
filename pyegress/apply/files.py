# SPDX-License-Identifier: MIT
"""The files on the command line: each read once, and what it is for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pyegress.apply.chain import COMMENT, Chain
from pyegress.apply.part import Part
from pyegress.apply.table import Table, is_ours
from pyegress.errors import InputError, UsageError
from pyegress.escape import display
from pyegress.rules import read, read_iptables, read_nft
from pyegress.rules.addresses import Family

_LINE = re.compile(r"(?:nft: )?line (\d+): (.*)")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")
"""What nobody of ours writes, and what readers may take for ends of lines where nft and iptables don't."""
_COMMANDS = ("iptables ", "ip6tables ", "sudo iptables ", "sudo ip6tables ")


def parts(names: Sequence[str], family: Family | None) -> list[Part]:
    """What the files are for, IPv4 first; InputError for one that touches anything but ours."""
    texts = [(name, _read(name)) for name in names]
    are_restore = [_is_restore(name, text) for name, text in texts]
    if not any(are_restore):
        if family is not None:
            raise UsageError("--family: only for files of iptables-restore; an nft file says it itself")
        if len(texts) > 1:
            raise UsageError("apply: more than one nft file; give one, or the two of iptables")
        return [_table(*texts[0])]
    if not all(are_restore):
        raise UsageError("apply: files for nft and for iptables; give those of one of them")
    chains = [_chain(name, text, family) for name, text in texts]
    for one in (4, 6):
        if sum(chain.family == one for chain in chains) > 1:
            raise UsageError(f"apply: two files for IPv{one}; give one for each family")
    chains.sort(key=lambda chain: chain.family)
    return [*chains]


def family_of(name: str, text: str) -> Family | None:
    """By the ending of its name, else by the addresses and protocols in it; None where nothing tells."""
    for family in (4, 6):
        if name.endswith(f".v{family}"):
            return 4 if family == 4 else 6
    found = set(_families(text))
    return found.pop() if len(found) == 1 else None


def _table(name: str, data: bytes) -> Table:
    try:
        table = read_nft.own_table(read.decoded(data))
    except InputError as error:
        raise _refused(name, error) from error
    if not is_ours(table):
        raise InputError(
            f"{display(name)}: table inet {display(table)}: tables of pyegress have names that begin with pyegress; "
            "nothing was changed"
        )
    return Table(name, data, table)


def _chain(name: str, data: bytes, family: Family | None) -> Chain:
    text = read.decoded(data)
    try:
        read_iptables.own_chain(text)
    except InputError as error:
        raise _refused(name, error) from error
    family = family or family_of(name, text)
    if family is None:
        raise UsageError(f"apply: {display(name)}: cannot tell IPv4 from IPv6; add --family 4 or --family 6")
    return Chain(name, data, family)


def _refused(name: str, error: InputError) -> InputError:
    line = _LINE.match(str(error))
    place, text = (f":{line[1]}", line[2]) if line else ("", str(error))
    return InputError(f"{display(name)}{place}: {text}; nothing was changed")


def _read(name: str) -> bytes:
    data = read.data_of(name)
    if not data.strip():
        raise InputError(f"{display(name)}: empty; nothing was changed")
    if match := _CONTROL.search(read.decoded(data)):
        line = match.string.count("\n", 0, match.start()) + 1
        raise InputError(
            f"{display(name)}:{line}: holds {display(match[0])}, which rules of pyegress never do; nothing was changed"
        )
    return data


def _is_restore(name: str, data: bytes) -> bool:
    """Whether it is for iptables-restore rather than for nft."""
    first = next(_statements(read.decoded(data)), "")
    if first.startswith(_COMMANDS):
        raise InputError(
            f"{display(name)}: holds iptables commands; apply takes files of -O iptables:format:restore"
        )
    return first.startswith("*")


def _families(text: str) -> Iterator[Family]:
    for line in _statements(text):
        for word in COMMENT.sub("", line).split():
            if word in ("icmp", "icmpv6", "ipv6-icmp"):
                yield 4 if word == "icmp" else 6
            # A number alone would be an address to ipaddress' network parser, a port to iptables.
            elif "." in word or ":" in word:
                with suppress(ValueError):
                    yield 4 if ipaddress.ip_network(word, strict=False).version == 4 else 6


def _statements(text: str) -> Iterator[str]:
    return (line for line in map(str.strip, text.split("\n")) if line and not line.startswith("#"))

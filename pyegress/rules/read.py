# SPDX-License-Identifier: MIT
"""Files of rules, whatever firewall they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pyegress.errors import EgressError, InputError
from pyegress.escape import display
from pyegress.rules import ipset, read_iptables, read_nft, read_nft_json
from pyegress.rules.addresses import Family
from pyegress.rules.firewall import Firewall
from pyegress.rules.iptables import CHAIN

Kind = Literal["nft", "nft-json", "restore", "commands"]

MOST_BYTES = 256 << 20
_HEAD_BYTES = 1 << 20
"""The comments at the beginning are shorter."""
_NFT = re.compile(
    r"(?:add|create|delete|destroy|flush|table)\s+(?:(?:table|chain|set|ruleset)\b|inet\b|ip6?\b)"
)


def kind_of(text: str) -> Kind | None:
    """What its first statement is for; None where it is for no firewall."""
    for line in text.split("\n"):
        statement = line.strip()
        if not statement or statement.startswith("#"):
            continue
        if statement.startswith("*"):
            return "restore"
        if statement.startswith('{"nftables"'):
            return "nft-json"
        if read_iptables.is_commands(line):
            return "commands"
        return "nft" if _NFT.match(statement) else None
    return None


def is_rules_file(name: str) -> bool:
    """Whether it is a file that holds rules."""
    try:
        if not Path(name).is_file():
            return False
        with Path(name).open("rb") as file:
            return kind_of(decoded(file.read(_HEAD_BYTES))) is not None
    except (OSError, ValueError):
        return False


def text_of(name: str) -> str:
    """The whole file; raises InputError."""
    return decoded(data_of(name))


def decoded(data: bytes) -> str:
    """Bytes as text that can be encoded again."""
    return data.decode("utf-8", "surrogateescape")


def data_of(name: str) -> bytes:
    """The same as bytes."""
    try:
        with Path(name).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        pair = [f"{name}.v{family}" for family in (4, 6) if Path(f"{name}.v{family}").exists()]
        hint = f"; did you mean {display(' and '.join(pair))}?" if pair else ""
        raise InputError(f"{display(name)}: {error.strerror}{hint}") from error
    except ValueError as error:
        raise InputError(f"{display(name)}: {error}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{display(name)}: more than {MOST_BYTES >> 20} MiB, which no file of rules has")
    return data


def firewalls(
    name: str, text: str, kind: Kind, family: Family | None, sets: ipset.Sets | None = None
) -> list[Firewall]:
    """Its chains; the family is that of a file for iptables-restore, which looks into sets of names."""
    try:
        if kind == "nft":
            return read_nft.read_text(text)
        if kind == "nft-json":
            return read_nft_json.read_json(text)
        if kind == "commands":
            return [
                firewall
                for each in sorted(read_iptables.commanded(text))
                for firewall in read_iptables.read_text(text, each)
            ]
        if family is None:
            raise InputError("cannot tell IPv4 from IPv6; add --family 4 or --family 6")
        return read_iptables.read_text(text, family, sets=sets)
    except EgressError as error:
        raise InputError(f"{display(name)}: {error}") from error


def sets_beside(name: str, text: str) -> ipset.Sets:
    """Those that the rules of a file for iptables-restore look into, from the file that was made with it."""
    if " --match-set " not in text:
        return {}
    beside = ipset.beside(name)
    try:
        return ipset.read_text(text_of(beside))
    except InputError as error:
        where = "" if str(error).startswith(display(beside)) else f"{display(beside)}: "
        raise InputError(f"{where}{error}; it holds the sets of {display(name)}") from error


def fills_own_chain(text: str) -> bool:
    """Whether a file for iptables-restore fills PYEGRESS, rather than OUTPUT itself."""
    return f"\n-A {CHAIN} " in text or f"\n:{CHAIN} " in text

# SPDX-License-Identifier: MIT
"""Names that rules can be made from, and what the sets of their addresses are called.

A name is the choice of whoever answers: rules are made from plain names of hosts alone, which mean themselves in every
syntax and can be asked for again.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from functools import lru_cache

from pyegress.record import Connection
from pyegress.rules.addresses import Family

MOST_BYTES = 128
"""What a comment of nft holds: the loaded rules tell the name that a set is for."""
NFT_PREFIX, IPSET_PREFIX = "name", "pyegress"
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_PLAIN_CHARS = 8
_HASH_CHARS = 12
"""60 bits: nobody finds a name whose set is that of another. With all else 31 characters, as many as ipset takes."""
_SET = re.compile(
    rf"(?:{NFT_PREFIX}|{IPSET_PREFIX})([46])_[a-z0-9_]{{0,{_PLAIN_CHARS}}}_[a-z2-7]{{{_HASH_CHARS}}}"
)
_OWNERS_CHOICE = "ptr"
"""That source tells what the address' owner wants it to be called."""


@lru_cache(65536)
def is_host_name(name: str) -> bool:
    """Whether it is a plain one, in lower case, and no address."""
    return len(name) <= MOST_BYTES and bool(_NAME.fullmatch(name)) and not _NUMBER.fullmatch(name)


def rule_name(connection: Connection) -> str | None:
    """The name that a rule for a connection is made from: the first that is known, if it is one of a host."""
    for name, source in zip(connection.dest_names, connection.dest_name_sources, strict=False):
        if source != _OWNERS_CHOICE:
            return name if is_host_name(name) else None
    return None


@lru_cache(65536)
def set_name(prefix: str, name: str, family: Family) -> str:
    """What the set of a name's addresses is called: a part that people recognise, and what tells names apart."""
    plain = re.sub(r"[^a-z0-9]+", "_", name)[:_PLAIN_CHARS].strip("_")
    digest = b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()[:_HASH_CHARS]
    return f"{prefix}{family}_{plain}_{digest}"


def is_set_name(text: str) -> bool:
    """Whether a set is one of a name's addresses."""
    return _SET.fullmatch(text) is not None

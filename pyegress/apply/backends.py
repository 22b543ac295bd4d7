# SPDX-License-Identifier: MIT
"""What else on this host decides about the same packets: the other iptables backend, and what is left of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from pyegress.apply import table
from pyegress.apply.chain import Chain
from pyegress.apply.part import Part
from pyegress.apply.table import Table
from pyegress.errors import EgressError
from pyegress.rules import live
from pyegress.rules.addresses import Family
from pyegress.rules.iptables import PROGRAM
from pyegress.rules.nft import TABLE

_WAY_ON = "pyegress apply --remove removes all of ours"


def notices(parts: Sequence[Part]) -> Iterator[str]:
    """What somebody who applies these should know."""
    if any(isinstance(part, Table) for part in parts):
        for chain in _chains():
            with suppress(EgressError):
                if chain.state().rules is not None:
                    yield f"{chain.what} is loaded as well, and both decide; {_WAY_ON}"
        return
    with suppress(EgressError):
        if live.is_installed("nft") and table.exists(TABLE):
            yield f"table inet {TABLE} is loaded as well, and both decide; {_WAY_ON}"
    for part in parts:
        if isinstance(part, Chain):
            with suppress(EgressError):
                yield from _other_backend(part.family)


def removed(name: str) -> list[str]:
    """Remove all of ours from nft and both backends of iptables; says what was removed."""
    ours: list[Part] = [*_chains()]
    if live.is_installed("nft"):
        ours.insert(0, Table("", b"", name))
    return [said for part in ours if (said := part.remove())]


def _chains() -> list[Chain]:
    """Ours as each backend that is installed would see it."""
    found = []
    for family in (4, 6):
        backends = [backend for backend in ("-nft", "-legacy") if _is_installed(family, backend)]
        if not backends and _is_installed(family, ""):
            backends = [""]
        found += [
            Chain("", b"", family, backend)
            for backend in backends
            if backend != "-legacy" or "filter" in live.legacy_tables(family)
        ]
    return found


def _is_installed(family: Family, backend: str) -> bool:
    return live.is_installed(f"{PROGRAM[family]}{backend}-save")


def _other_backend(family: Family) -> Iterator[str]:
    program, other = PROGRAM[family], live.other_backend(family)
    if other is not None:
        yield (
            f"{program}: this host has tables of the {other} backend too, and both decide; "
            f"see {program}-{other}-save"
        )

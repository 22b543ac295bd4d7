# SPDX-License-Identifier: MIT
"""A policy file: `default = "drop"` and [[allow]] tables, read and checked; every error names file and line."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta

from pyegress import tomlfile
from pyegress.errors import UsageError, nearest
from pyegress.escape import display

Default: TypeAlias = Literal["accept", "drop", "reject"]
Protocol: TypeAlias = Literal["tcp", "udp"]
_WORDS = {"default": get_args(Default), "protocol": get_args(Protocol)}
_Texts = Annotated[list[str], Meta(min_length=1)]
_Made = TypeVar("_Made", bound=msgspec.Struct)


class Group(msgspec.Struct):
    """An [[allow]] table: all keys must hold, and of each any of its values."""

    comm: _Texts = []
    exe: _Texts = []
    cmdline: _Texts = []
    parent: _Texts = []
    grandparent: _Texts = []
    ancestor: _Texts = []
    user: _Texts = []
    unit: _Texts = []
    container: _Texts = []
    cidr: _Texts = []
    name: _Texts = []
    port: Annotated[list[int | str], Meta(min_length=1)] = []
    protocol: Annotated[list[Protocol], Meta(min_length=1)] = []


class PolicyFile(NamedTuple):
    """What a file says."""

    default: Default | None
    groups: list[tuple[str, Group]]
    """With the place of each, for messages."""


class _Content(msgspec.Struct):
    default: Default | None = None
    allow: list[dict[str, Any]] = []


def read(path: str) -> PolicyFile:
    """The policy of a file; UsageError says what is wrong, and where."""
    where = f"policy:{display(path)}"
    text, raw = tomlfile.read(path, where)
    _check_keys(raw, _Content, where)
    if not isinstance(raw.get("allow", []), list):
        raise UsageError(f"{where}: allow: must be written as [[allow]]")
    content = _converted(raw, _Content, where)
    lines = [text.count("\n", 0, match.start(1)) + 1 for match in _TABLE.finditer(text)]
    if len(lines) != len(content.allow):  # written as an array, or within a longer text
        lines = []
    groups = []
    for index, table in enumerate(content.allow):
        place = f"{where}:{lines[index]}" if lines else where
        place = f"{place}: [[allow]] {index + 1}"
        groups.append((place, _group(table, place)))
    return PolicyFile(content.default, groups)


_TABLE = re.compile(r"^[ \t]*(\[\[[ \t]*allow[ \t]*\]\])", re.MULTILINE)


def _group(table: dict[str, Any], where: str) -> Group:
    if not table:
        raise UsageError(f'{where}: has no key and so would allow everything; that is default = "accept"')
    _check_keys(table, Group, where)
    return _converted(
        {key: value if isinstance(value, list) else [value] for key, value in table.items()}, Group, where
    )


def _check_keys(given: dict[str, Any], wanted: type[msgspec.Struct], where: str) -> None:
    known = wanted.__struct_fields__
    for key in given:
        if key not in known:
            raise UsageError(f"{where}: {display(key)}: no such key; {nearest(key, known)}")


def _converted(given: dict[str, Any], wanted: type[_Made], where: str) -> _Made:
    try:
        return msgspec.convert(given, wanted)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`").split("[")[0]
        what = display(what)
        if key in _WORDS:
            what += f"; known: {', '.join(_WORDS[key])}"
        raise UsageError(f"{where}: {key}: {what[:1].lower()}{what[1:]}") from None

# SPDX-License-Identifier: MIT
"""A policy file: `default = "drop"` and [[allow]] tables, read and checked; every error names file and line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta

from pyegress.errors import UsageError, nearest
from pyegress.escape import display
from pyegress.options import size_text

FILE_BYTES = 1 << 20
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
    text = _text(path, where)
    raw = _toml(text, where)
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


def _text(path: str, where: str) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{where}: {getattr(error, 'strerror', None) or 'not a path'}") from None
    if len(raw) > FILE_BYTES:
        raise UsageError(f"{where}: must be at most {size_text(FILE_BYTES)}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{where}:{line}: must be UTF-8") from None


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = display(str(error))
        at = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", message)
        if at:
            where, message = f"{where}:{at[1]}", message[: at.start()]
        raise UsageError(f"{where}: not TOML: {message[:1].lower()}{message[1:]}") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number too long
        raise UsageError(f"{where}: not TOML: {display(str(error))}") from None


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

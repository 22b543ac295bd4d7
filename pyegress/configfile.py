# SPDX-License-Identifier: MIT
"""The config file: [inputs.NAME], [outputs.NAME] and [filters] tables, whose keys are the options of plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pyegress import tomlfile
from pyegress.errors import UsageError, nearest
from pyegress.escape import display
from pyegress.options import Given, Place

_TABLES = ("inputs", "outputs", "filters")
_VALUE = "must be a text, a whole number, true or false, or a list of these"
FILTERS_LEVEL, PLUGIN_LEVEL, COMMAND_LINE_LEVEL = range(3)


class Table(NamedTuple):
    """What is said of one plugin."""

    place: Place
    options: list[Given]


class ConfigFile(NamedTuple):
    """What a file says; plugins by name, in its order."""

    where: str
    inputs: dict[str, Table]
    outputs: dict[str, Table]
    filters: list[Given]
    """For every input."""


NO_FILE = ConfigFile("", {}, {}, [])


def read(path: str) -> ConfigFile:
    """A file's content; UsageError says what is wrong, and where. Whether plugins know the keys is theirs to say."""
    where = display(path)
    content = tomlfile.read(path, where).content
    for key in content:
        if key not in _TABLES:
            raise UsageError(f"{where}: {display(key)}: no such table; {nearest(key, _TABLES)}")
    return ConfigFile(
        where,
        _plugins(content, "inputs", where),
        _plugins(content, "outputs", where),
        _table(content.get("filters", {}), f"{where}: filters", FILTERS_LEVEL).options,
    )


def _plugins(content: dict[str, Any], kind: str, where: str) -> dict[str, Table]:
    tables = content.get(kind, {})
    if not isinstance(tables, dict):
        raise UsageError(f"{where}: {kind}: must be tables: [{kind}.NAME]")
    return {
        name: _table(table, f"{where}: {kind}.{display(name)}", PLUGIN_LEVEL)
        for name, table in tables.items()
    }


def _table(table: Any, start: str, level: int) -> Table:
    if not isinstance(table, dict):
        raise UsageError(f"{start}: must be a table: [{start.rpartition(' ')[2]}]")
    place = Place(start, ".", " = ")
    return Table(
        place,
        [
            Given(key, text, place, level)
            for key, value in table.items()
            for text in _texts(place, key, value)
        ],
    )


def _texts(place: Place, key: str, value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool):
            yield str(one).lower()
        elif isinstance(one, str | int):
            yield str(one)
        else:
            raise UsageError(f"{place.of(key)}: {_VALUE}")

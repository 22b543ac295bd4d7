# SPDX-License-Identifier: MIT
"""The example of a config file: whole, current, and right."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from pyegress import configexample, configfile, options, registry

EXAMPLE = Path(__file__).parent.parent / "docs" / "pyegress.toml"
PLUGINS = [*registry.INPUTS, *registry.OUTPUTS]


def uncommented() -> str:
    """Each table and option in force."""
    return re.sub(r"^#(?=[\[a-z])", "", configexample.text().partition("#[filters]")[2], flags=re.MULTILINE)


def test_documented_example_is_current() -> None:
    """docs/pyegress.toml is what `pyegress list --toml` says; `make docs` writes it anew."""
    assert EXAMPLE.read_text() == configexample.text()


def test_as_it_is_it_says_nothing() -> None:
    """All of it is comment."""
    assert msgspec.toml.decode(configexample.text()) == {}
    assert configfile.read(str(EXAMPLE)).inputs == {}


def test_every_option_is_there() -> None:
    """By its key."""
    found = msgspec.toml.decode(uncommented())
    for kind, plugins in (("inputs", registry.all_inputs()), ("outputs", registry.all_outputs())):
        for plugin in plugins:
            assert not isinstance(plugin, registry.Broken)
            assert list(found[kind][plugin.name]) == options.keys(plugin.Options)


@pytest.mark.parametrize("name", PLUGINS)
def test_defaults_are_the_defaults(name: str, tmp_path: Path) -> None:
    """Where an option has one that can be written, it means the same as nothing."""
    file = tmp_path / "x.toml"
    file.write_text("\n".join(line for line in uncommented().splitlines() if not line.endswith('= ""')))
    config = configfile.read(str(file))
    table = config.inputs.get(name) or config.outputs[name]
    plugin = registry.input_named(name) if name in registry.INPUTS else registry.output_named(name)
    for option in table.options:
        read = options.reader(plugin.Options, option.key)(option.text)
        declared = next(at for at in options.describe(plugin.Options) if at.key == option.key)
        assert read == options.reader(plugin.Options, option.key)(declared.default_text.split(",")[0]) or (
            "," in declared.default_text
        )

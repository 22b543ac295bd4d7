# SPDX-License-Identifier: MIT
"""The text of `pyegress list`: every input and output with its options."""

from __future__ import annotations

from collections.abc import Sequence

from pyegress import options, registry
from pyegress.escape import display
from pyegress.plugin import Input, Output


def text() -> str:
    """Inputs, then outputs, each sorted by name."""
    lines = ["Inputs (-i NAME, options -I NAME:KEY:VALUE):"]
    lines += _lines(registry.all_inputs())
    lines += ["", "Outputs (-o NAME, options -O NAME:KEY:VALUE):"]
    lines += _lines(registry.all_outputs())
    return "\n".join(lines) + "\n"


def _lines(plugins: Sequence[type[Input] | type[Output] | registry.Broken]) -> list[str]:
    lines = []
    for plugin in plugins:
        name = display(plugin.name)
        if isinstance(plugin, registry.Broken):
            lines.append(f"  {name}: {plugin.reason}")
            continue
        lines.append(f"  {name}: {plugin.summary}")
        described = options.describe(plugin.Options)
        key_width = max((len(option.key) for option in described), default=0)
        for option in described:
            what = f"{option.type_text}; default {option.default_text}"
            if option.default_text == "required":
                what = f"{option.type_text}; required"
            described_as = f"{option.help} ({what})" if option.help else f"({what})"
            lines.append(f"    {option.key:<{key_width}}  {described_as}")
    return lines

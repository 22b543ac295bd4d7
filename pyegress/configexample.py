# SPDX-License-Identifier: MIT
"""A config file that changes nothing: every option of every plugin with its default, as a comment."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pyegress import options, registry

_WIDTH = 110
_HEAD = """\
# Config file of pyegress: `pyegress run -c FILE`; `pyegress list --toml` writes this. SIGHUP has it read again:
# filters, and what nfqueue allows, are changed while it runs, the rest needs a restart.
# What the command line names is added; of options that can be given once, the command line's win.
# A table that is not a comment names a plugin to use; without any: ebpf, or what works here, and text.

# Options of every input that has them; those of its own table are added, or win.
#[filters]
"""
_PLAIN = ("bool", "int")


def text() -> str:
    """The file."""
    lines: list[str] = []
    for kind, plugins in (("inputs", registry.all_inputs()), ("outputs", registry.all_outputs())):
        for plugin in plugins:
            if not isinstance(plugin, registry.Broken):
                lines += _table(kind, plugin)
    return _HEAD + "".join(f"{line}\n" for line in lines)


def _table(kind: str, plugin: Any) -> Iterator[str]:
    yield ""
    yield from _comment(f"{plugin.summary[:1].upper()}{plugin.summary[1:]}.")
    yield f"#[{kind}.{plugin.name}]"
    for option in options.describe(plugin.Options):
        yield from _comment(f"{option.help} ({option.type_text})")
        yield f"#{option.key} = {_value(option)}"


def _value(option: options.OptionHelp) -> str:
    words = option.type_text.removesuffix(", repeatable")
    if words != option.type_text:
        given: Sequence[str] = option.default_text.split(",") if option.default_text != "none" else ()
        return json.dumps(list(given), ensure_ascii=False)
    shown = "" if option.default_text in ("none", "required", "***") else option.default_text
    return shown if shown and words.split()[0] in _PLAIN else json.dumps(shown, ensure_ascii=False)


def _comment(shown: str) -> list[str]:
    return textwrap.wrap(shown, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)

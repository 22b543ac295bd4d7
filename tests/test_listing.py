# SPDX-License-Identifier: MIT
"""The list of plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, field

from pyegress import listing, plugin, registry
from pyegress.outputs.text import Text


class LokiOptions(plugin.Options, frozen=True, kw_only=True):
    """Options with a required and a secret one."""

    url: Annotated[str, Meta(description="where to push")]
    password: Annotated[str, Meta(extra={"secret": True})] = field(name="pass", default="hush")


class Loki(Text):
    """A stand-in with options of its own."""

    name = "loki"
    summary = "pushes"
    Options = LokiOptions


def test_plugins_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by name, each with summary, and per option key, help, type and default; secrets hidden."""
    monkeypatch.setattr(registry, "INPUTS", {})
    monkeypatch.setattr(
        registry,
        "OUTPUTS",
        {"loki": f"{__name__}:Loki", "away": "pyegress.nosuch:X", "text": registry.OUTPUTS["text"]},
    )
    lines = listing.text().splitlines()
    at = lines.index("Outputs (-o NAME, options -O NAME:KEY:VALUE):")
    assert lines[at + 1].startswith("  away: can't be loaded: ModuleNotFoundError")
    assert lines[at + 2 : at + 5] == [
        "  loki: pushes",
        "    url   where to push (text; required)",
        "    pass  (text; default ***)",
    ]
    assert lines[at + 5].startswith("  text: ")


def test_documented_list_is_current() -> None:
    """docs/plugins.txt is what `pyegress list` says; `make docs` writes it anew."""
    assert (Path(__file__).parent.parent / "docs" / "plugins.txt").read_text() == listing.text()

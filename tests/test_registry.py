# SPDX-License-Identifier: MIT
"""The registry finds ours and other people's plugins by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from pyegress import registry
from pyegress.errors import EgressError, UsageError
from pyegress.outputs.text import Text


def test_ours_by_name() -> None:
    """A name gives the class."""
    assert registry.output_named("text") is Text


@pytest.mark.parametrize("word", ["tex", "texd"])
def test_unknown_names_the_nearest(word: str) -> None:
    """A typo is answered with what was meant."""
    with pytest.raises(UsageError, match=f"^no such output '{word}'; did you mean 'text'"):
        registry.output_named(word)
    with pytest.raises(UsageError, match="^no such input '"):
        registry.input_named(word)


def test_names_agree_with_classes() -> None:
    """Each of our names leads to a class that calls itself so."""
    for name in registry.INPUTS:
        assert registry.input_named(name).name == name
    for name in registry.OUTPUTS:
        assert registry.output_named(name).name == name


def entry_point(folder: Path, group: str, line: str) -> None:
    """Make a distribution with one entry point."""
    info = folder / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


def test_entry_point_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution's entry point is found by its name and listed."""
    entry_point(tmp_path, "pyegress.outputs", "theirs = pyegress.outputs.text:Text")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.output_named("theirs") is Text
    assert Text in registry.all_outputs()


@pytest.mark.parametrize(
    ("target", "reason"), [("nosuchmodule:X", "ModuleNotFoundError"), ("json:dumps", "not a subclass")]
)
def test_broken_entry_point_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    """Somebody's broken plugin is listed as such and stops nobody who doesn't ask for it."""
    entry_point(tmp_path, "pyegress.outputs", f"theirs = {target}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.output_named("text") is Text
    broken = [plugin for plugin in registry.all_outputs() if isinstance(plugin, registry.Broken)]
    assert [plugin.name for plugin in broken] == ["theirs"]
    with pytest.raises(EgressError, match=f"^output 'theirs': can't be loaded: .*{reason}"):
        registry.output_named("theirs")


def test_loading_plugins_needs_no_native_module() -> None:
    """Listing works on a machine where the native module can't be loaded."""
    code = (
        "import sys; from pyegress import registry as r; r.all_inputs(); r.all_outputs(); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "pyegress._native" not in loaded.stdout.split()


ROOT = Path(__file__).parent.parent

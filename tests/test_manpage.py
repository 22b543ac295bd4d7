# SPDX-License-Identifier: MIT
"""The man page: whole, and roff that its readers have nothing to say against."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from pyegress import options, registry
from pyegress.cli import program
from pyegress.manpage import roff, text

DAY = "2026-01-31"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page in a file."""
    file = tmp_path / "pyegress.8"
    file.write_text(text(program, DAY))
    return file


def shown(file: Path) -> str:
    """As a reader sees it, on one line."""
    command = ["man", "--encoding=UTF-8", "--no-hyphenation", "--no-justification", "-l", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"MANWIDTH": "200", "LC_ALL": "C.UTF-8"}
    )
    return " ".join(done.stdout.split())


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_man_has_no_warnings(page: Path) -> None:
    """Of groff."""
    command = ["man", "--warnings", "-l", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.skipif(not shutil.which("mandoc"), reason="needs mandoc")
def test_mandoc_has_no_warnings(page: Path) -> None:
    """But for the length of lines, which a sentence decides."""
    done = subprocess.run(["mandoc", "-T", "lint", str(page)], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if "longer than 80 bytes" not in line] == []


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
def test_every_command_and_option_is_in_it(page: Path) -> None:
    """Those of commands as of plugins."""
    read = shown(page)
    for name, command in program.commands.items():
        assert f"pyegress {name}" in read
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in read, (name, parameter.opts)
    for flag, plugins in (("-I", registry.all_inputs()), ("-O", registry.all_outputs())):
        for plugin in plugins:
            if not isinstance(plugin, registry.Broken):
                for key in options.keys(plugin.Options):
                    assert f"{flag} {plugin.name}:{key}:" in read


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
@pytest.mark.parametrize(
    "hostile", [".so /etc/passwd", "'br", r"\fBx\*y\(co", 'a - b -- `c` ~^ "d"', "é \u2019 \\[u41]"]
)
def test_text_is_inert(tmp_path: Path, hostile: str) -> None:
    """What roff would take for a request or an escape is shown as it is."""
    file = tmp_path / "x.8"
    file.write_text(f".TH X 8 {DAY} x x\n.SH NAME\n{roff(hostile)}\n")
    assert hostile in shown(file)

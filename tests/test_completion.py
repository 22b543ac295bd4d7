# SPDX-License-Identifier: MIT
"""What real shells offer at a tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.cli import program
from pyegress.completion import script

BASH = """
source "$1"; shift
COMP_LINE=$1 COMP_POINT=${#1}
COMP_WORDS=($2) COMP_CWORD=$3 COMP_TYPE=9
compopt() { :; }
_pyegress_completion pyegress "" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with the program."""
    program_file = tmp_path / "bin" / "pyegress"
    program_file.parent.mkdir()
    program_file.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyegress "$@"\n')
    program_file.chmod(0o755)
    return f"{program_file.parent}:{os.environ['PATH']}"


def run(command: list[str], path: str) -> list[str]:
    """Lines of a shell's output."""
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(tmp_path: Path, path: str, line: str) -> list[str]:
    """What bash offers for a line."""
    file = tmp_path / "completion"
    file.write_text(script(program, "bash"))
    return run(["bash", "--norc", "-c", BASH, "bash", str(file), line, line, "1"], path)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pyegress ru", ["rules", "rules-for", "run"]),
        ("pyegress run -i nf", ["nflog", "nfqueue"]),
        ("pyegress run -I eb", ["ebpf:"]),
        (
            "pyegress run -I ebpf:ignore-c",
            ["ignore-cidr:", "ignore-comm:", "ignore-cmdline:", "ignore-container:"],
        ),
        ("pyegress run -I ebpf:attach:k", ["kprobe"]),
        ("pyegress run -o sql", ["sqlite"]),
        ("pyegress run -O sqlite:ke", ["keep:"]),
        ("pyegress run --read", ["--ready-file", "--ready-fd"]),
        ("pyegress -o log", ["logfmt"]),
        ("pyegress completion ", ["bash", "zsh", "fish"]),
        ("pyegress run -o $(touch gone) -i eb", ["ebpf"]),
    ],
)
def test_bash(tmp_path: Path, path: str, line: str, offered: list[str]) -> None:
    """Behind a colon only the rest, because that is a word of its own there."""
    assert bash(tmp_path, path, line) == offered
    assert not Path("gone").exists()


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pyegress run -i nf", {"nflog", "nfqueue"}),
        ("pyegress run -I ebpf:attach:k", {"ebpf:attach:kprobe"}),
        ("pyegress run -O sqlite:ke", {"sqlite:keep:"}),
    ],
)
def test_fish(tmp_path: Path, path: str, line: str, offered: set[str]) -> None:
    """As fish itself says it."""
    file = tmp_path / "pyegress.fish"
    file.write_text(script(program, "fish"))
    lines = run(["fish", "--no-config", "-c", f'source {file}; complete -C "{line}"'], path)
    assert {line.split("\t")[0] for line in lines} == offered


# The terminal's own echo ends, and zsh's editor begins, with its switch to bracketed paste (2004).
ZSH = """
zmodload zsh/zpty
zpty -b z zsh -f
zpty -w z 'autoload -U compinit; compinit -u -d "$ZDOTDIR/dump"; PS1=; . "$ZDOTDIR/completion"; print begun'
zpty -r -m z REPLY '*begun*begun*2004h*'
zpty -n -w z "$1"$'\\t\\x15print ended\\n'
zpty -r -m z REPLY '*ended*ended*'
print -r -- "$REPLY"
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
@pytest.mark.parametrize(
    ("line", "offered"),
    [("pyegress run -o sql", "sqlite"), ("pyegress run -I ebpf:attach:kp", "ebpf:attach:kprobe")],
)
def test_zsh(tmp_path: Path, path: str, line: str, offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed into a zsh on a terminal."""
    (tmp_path / "completion").write_text(script(program, "zsh"))
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    assert offered in "".join(run(["zsh", "-f", "-c", ZSH, "zsh", line], path))

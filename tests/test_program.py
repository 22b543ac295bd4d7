# SPDX-License-Identifier: MIT
"""The group of commands: options without a command, and errors as one line."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from pyegress.errors import OutputError
from pyegress.program import Program, list_option, version_option


@click.group(cls=Program)
@list_option
@version_option
def program() -> None:
    """Some program."""


@program.command()
@click.option("--fail", type=click.Choice(["said", "gone", "bug", "key"]))
@click.option("--debug", is_flag=True)
def run(fail: str | None, debug: bool) -> None:
    """Do it, or fail."""
    click.echo("ran")
    errors: dict[str | None, BaseException] = {
        "said": OutputError("disk: full"),
        "gone": BrokenPipeError(),
        "bug": ValueError("a\nb"),
        "key": KeyboardInterrupt(),
    }
    if fail in errors:
        raise errors[fail]


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (["run"], 0, ""),
        (["--debug"], 0, ""),
        (["--fail", "said"], 1, "pyegress: disk: full\n"),
        (["--fail", "gone"], 141, ""),
        (["--fail", "key"], 130, ""),
        (
            ["--fail", "bug"],
            1,
            "pyegress: internal error: ValueError: a\\nb; run with --debug for the traceback\n",
        ),
        (["rum"], 2, "pyegress: no such command 'rum'; did you mean 'run'?\n"),
        (["--fial"], 2, "pyegress: no such option '--fial'; did you mean '--fail'?\n"),
    ],
)
def test_exit_codes_and_messages(words: list[str], code: int, err: str) -> None:
    """One line at most, and what a shell expects."""
    result = CliRunner().invoke(program, words)
    assert (result.exit_code, result.stderr.strip("\n")) == (code, err.strip("\n"))

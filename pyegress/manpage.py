# SPDX-License-Identifier: MIT
"""The man page, from the same declarations as --help and `pyegress list`.

click-man makes a page for each command, but leaves a line of text that begins with a dot to be taken for a request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from typing import Any

import click

from pyegress import __version__, options, registry

SECTION = 8
_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
_STATUS = (
    ("0", "A normal end, also by SIGINT or SIGTERM."),
    ("1", "A failure."),
    ("2", "A wrong command line or config file."),
)


def text(program: click.Group, day: str) -> str:
    """The page, as roff with man(7)'s macros; `day` as 2026-01-31."""
    lines = [
        f'.TH PYEGRESS {SECTION} "{day}" "pyegress {roff(__version__)}" "System administration"',
        ".SH NAME",
        f"pyegress \\- {roff(_sentence(program))}",
        ".SH SYNOPSIS",
        ".B pyegress",
        ".RI [ command ]",
        ".RI [ option ...]",
        ".SH DESCRIPTION",
        *_paragraphs(program),
        ".SH COMMANDS",
    ]
    for name in sorted(program.commands):
        command = program.commands[name]
        if not command.hidden:
            lines += _command(name, command)
    lines += [".SH INPUTS", *_plugins("-I", registry.all_inputs())]
    lines += [".SH OUTPUTS", *_plugins("-O", registry.all_outputs())]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUS:
        lines += _entry(roff(status), meaning)
    return "\n".join(lines) + "\n"


def roff(shown: str) -> str:
    """Text that roff shows as it is, on one line, wherever that stands."""
    plain = " ".join(shown.split())
    escaped = "".join(
        _ESCAPES.get(char) or (char if char.isascii() else f"\\[u{ord(char):04X}]") for char in plain
    )
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS pyegress {roff(name)} {roff(usage)}"
    yield from _paragraphs(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield from _entry(f"\\fB{roff(record[0])}\\fR", record[1])


def _paragraphs(command: click.Command) -> Iterator[str]:
    written = "\n\n".join(cleandoc(part) for part in (command.help, command.epilog) if part)
    for at, paragraph in enumerate(written.split("\n\n")):
        if at:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *(roff(line) for line in paragraph.splitlines()[1:]), ".fi")
        else:
            yield roff(paragraph)


def _plugins(flag: str, plugins: Sequence[Any]) -> Iterator[str]:
    for plugin in plugins:
        if isinstance(plugin, registry.Broken):
            continue
        yield f".SS {roff(plugin.name)}"
        yield roff(f"{plugin.summary[:1].upper()}{plugin.summary[1:]}.")
        for option in options.describe(plugin.Options):
            default = "required" if option.default_text == "required" else f"default {option.default_text}"
            key = f"\\fB{roff(f'{flag} {plugin.name}:{option.key}:')}\\fR\\fI{roff(option.type_text)}\\fR"
            yield from _entry(key, f"{option.help} ({default})")


def _entry(tag: str, meaning: str) -> Iterator[str]:
    yield from (".TP", tag, roff(meaning))


def _sentence(program: click.Command) -> str:
    return (program.help or "").split(".")[0]


def command(program: click.Group, show: Any) -> click.Command:
    """The command that prints the page of this program."""

    @click.command("man")
    def man() -> None:
        """Print the man page: `pyegress man | man -l -`."""
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
        show(text(program, time.strftime("%Y-%m-%d", time.gmtime(seconds))))

    return man

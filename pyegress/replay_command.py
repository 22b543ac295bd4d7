# SPDX-License-Identifier: MIT
"""`pyegress replay`: what earlier logs hold, to any output."""

from __future__ import annotations

from typing import Any

import click

from pyegress.errors import UsageError
from pyegress.escape import display

_INPUT = "log"
_SHARED = ("input_options", "outputs", "output_options", "limit", "debug")
"""Options of `run` that mean the same here."""


def command(run: click.Command) -> click.Command:
    """The command, which is `run` with the input `log`."""

    def replay(logs: tuple[str, ...], input_options: tuple[str, ...], **shared: Any) -> None:
        if not logs:
            raise UsageError("replay: name a log")
        for text in input_options:
            if not text.startswith(f"{_INPUT}:"):
                raise UsageError(f"-I {display(text)}: must be {_INPUT}:KEY:VALUE")
        files = [f"{_INPUT}:file:{log}" for log in logs]
        click.get_current_context().invoke(
            run, inputs=(_INPUT,), input_options=(*files, *input_options), **shared
        )

    return click.Command(
        "replay",
        callback=replay,
        params=[
            click.Argument(["logs"], metavar="LOG...", nargs=-1, type=click.Path()),
            *(parameter for parameter in run.params if parameter.name in _SHARED),
        ],
        help="""Give what earlier logs hold to outputs, as if it were observed now, but with its own times.

        LOG is a file of `-o logfmt` or `-o json` (also .gz or .zst), a database of `-o sqlite`, or - for standard
        input; several are merged by time. Nothing is looked up, and an output that is slow is waited for. Filters are
        those of `run`.

        \b
        pyegress replay egress.json
        pyegress replay egress.log* -I log:ignore-port:53 -o sqlite -O sqlite:file:egress.db
        """,
        epilog="Options of plugins: `pyegress list`.",
    )

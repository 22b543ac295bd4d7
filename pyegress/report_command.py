# SPDX-License-Identifier: MIT
"""`pyegress report`: earlier logs as one page to look at."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from pyegress import options
from pyegress.errors import UnsupportedError, UsageError
from pyegress.escape import display
from pyegress.losses import Losses

Say = Callable[[str], None]

TOP = 25
MOST_TOP = 100_000
_STDOUT = 1


def command(say: Say) -> click.Command:
    """The command, which speaks to the user through `say`."""

    @click.command("report")
    @click.argument("logs", metavar="LOG...", nargs=-1)
    @click.option(
        "-o",
        "--output",
        metavar="FILE",
        help="Page to write (0640), in one go; - is standard output. [default: -, unless that is a terminal]",
    )
    @click.option("--top", metavar="N", default=str(TOP), help=f"Rows of a table at most. [default: {TOP}]")
    @click.option(
        "--no-redact", is_flag=True, help="Show also what looks like a secret in the arguments of programs."
    )
    def report(logs: tuple[str, ...], output: str | None, top: str, no_redact: bool) -> None:
        """Make a page to look at from earlier logs: services, where they connect, and when that was new.

        LOG is a file of `-o logfmt` or `-o json` (also .gz or .zst), a database of `-o sqlite`, or - for standard
        input. The page is one file of HTML that needs no network and has no script.

        \b
        pyegress report /var/lib/pyegress/egress.db -o report.html
        """
        if not logs:
            raise UsageError("report: name a log")
        _write(logs, output, _rows(top), not no_redact, say)

    return report


def _rows(text: str) -> int:
    try:
        count = options.whole_number(text)
    except ValueError as error:
        raise UsageError(f"--top {display(text)}: {error}") from None
    if not 1 <= count <= MOST_TOP:
        raise UsageError(f"--top {display(text)}: must be 1..{MOST_TOP}")
    return count


def _write(logs: Sequence[str], output: str | None, most: int, redact: bool, say: Say) -> None:
    # Everything that can't work is said before hours of logs are read.
    if output is None and os.isatty(_STDOUT):
        raise UsageError("report: a page of HTML is not for a terminal; name a file with -o, or redirect it")
    to_file = output not in (None, "", "-")
    from pyegress.outputs.filesink import FileSink, replace_file, writable_folder

    if output is not None and to_file:
        _refuse_own_log(logs, output)
        writable_folder(output)
    # It would tell of its font cache on stderr.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from pyegress.report.page import page
    except ImportError as error:
        what = display(error.name or str(error))
        raise UnsupportedError(
            f"report: needs {what}, which is not here; pip install 'pyegress[report]'"
        ) from error
    from pyegress.logs.reader import LogReader
    from pyegress.report.model import Gathered

    losses = Losses()
    gathered, reader = Gathered(losses), LogReader(losses)
    for log in logs:
        for batch in reader.read(log):
            gathered.add(batch)
    made = page(gathered, losses, logs, most, redact)
    if output is not None and to_file:
        replace_file(output, made)
    else:
        FileSink("").write(made)
    for line in losses.lines():
        say(line)


def _refuse_own_log(logs: Sequence[str], output: str) -> None:
    for log in logs:
        with suppress(OSError, ValueError):
            if Path(output).samefile(log):
                raise UsageError(f"-o {display(output)}: that is a log to read; name another file")

# SPDX-License-Identifier: MIT
"""egress-auditor's line for each connection, on stderr."""

from __future__ import annotations

from typing import ClassVar

import click

from pyegress.outputs.text import upstream_line
from pyegress.plugin import Batch, Context, Options, Output
from pyegress.progressbar import Bar


class Announcer(Output):
    """For connections of some inputs: those that are not quiet."""

    name: ClassVar[str] = "stderr"
    summary: ClassVar[str] = "one line per connection on stderr"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, loud: frozenset[str]) -> None:
        self._loud = loud

    def open(self, context: Context) -> None:
        pass

    def write(self, batch: Batch) -> None:
        lines = [f"{upstream_line(connection)}\n" for connection in batch if connection.hook in self._loud]
        if lines:
            click.echo(f"{Bar.erase}{''.join(lines)}", nl=False, err=True)

    def close(self) -> None:
        pass

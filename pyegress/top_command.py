# SPDX-License-Identifier: MIT
"""`pyegress top`: who connects where, as it happens."""

from __future__ import annotations

from typing import Any

import click

_OUTPUT = "table"


def command(run: click.Command) -> click.Command:
    """The command, which is `run` with the output `table` and what else is asked for."""

    def top(outputs: tuple[str, ...], **rest: Any) -> None:
        context = click.get_current_context()
        context.invoke(run, outputs=(_OUTPUT, *outputs), **rest)

    beside = click.Option(
        ["-o", "outputs"],
        metavar="NAME",
        multiple=True,
        help="Output beside the table; repeatable. [default: none]",
    )
    return click.Command(
        "top",
        callback=top,
        params=[beside if parameter.name == "outputs" else parameter for parameter in run.params],
        help="""Show processes and their destinations in a live table; q or ctrl-c ends.

        \b
        pyegress top
        pyegress top -O table:by:destination -O table:sort:count
        pyegress top -I ebpf:only-unit:ssh.service -o sqlite -O sqlite:file:egress.db
        """,
        epilog="Options of plugins: `pyegress list`; of the table: -O table:KEY:VALUE.",
    )

# SPDX-License-Identifier: MIT
"""The report for people: plain lines, or with colours and folded on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyegress.doctor.examination import Examination

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {"works": "green", "limited": "yellow", "fails": "red", "unknown": "magenta"}
_STATE_WIDTH = max(map(len, _COLOURS))
_REMEDY = "do:"


def plain(examination: Examination) -> str:
    """A line for each finding, below it one with the remedy; the verdict at the end."""
    width = _name_width(examination)
    lines = []
    for found in examination.findings:
        lines.append(f"{found.name:{width}}  {found.state:{_STATE_WIDTH}}  {found.detail}")
        if found.remedy is not None:
            lines.append(f"{'':{width}}  {_REMEDY:{_STATE_WIDTH}}  {found.remedy}")
    return "".join(f"{line}\n" for line in (*lines, examination.verdict))


def coloured(examination: Examination) -> str:
    """The same for the terminal that stdout is."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(_table(examination))
        console.print(examination.verdict, markup=False, style="bold" if examination.works else "bold red")
    return capture.get()


def _table(examination: Examination) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for found in examination.findings:
        # Text, so that brackets in somebody's name are no markup.
        table.add_row(Text(found.name), Text(found.state, _COLOURS[found.state]), Text(found.detail))
        if found.remedy is not None:
            table.add_row("", Text(_REMEDY, "dim"), Text(found.remedy))
    return table


def _name_width(examination: Examination) -> int:
    return max(len(found.name) for found in examination.findings)

# SPDX-License-Identifier: MIT
"""What is drawn: rows in columns that fit, with a head and a foot.

Nothing is wrapped: columns that have no room are left out, the least important first. What processes chose is escaped
and comes in as Text, which has no markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pyegress.escape import display
from pyegress.record import Connection
from pyegress.watch.tally import By, Shown, View, name, service

MOST_CHARACTERS = 256
"""Of one text: of signs that have no width any number would fit into a column."""
NEW = "+"
LEAST_ROWS = 3
"""The foot is cut before fewer rows are shown."""
_HEAD_LINES = 2
_FIRST_STAGES = ("lost", "unattributed")


class About(NamedTuple):
    """What is shown beside the rows; texts are escaped."""

    inputs: Sequence[str]
    losses: Mapping[tuple[str, str], int]
    messages: Sequence[str]
    hint: str


class _Column(NamedTuple):
    title: str
    text: Callable[[Connection], str]
    least: int
    """What does not fit into less leaves the column out."""
    most: int


def destination(connection: Connection) -> str:
    """`192.0.2.1:443/tcp`, `[2001:db8::1]:53/udp`, `192.0.2.1 protocol 1`."""
    address = connection.dest_ip
    if connection.dest_port is None:
        return f"{address} protocol {connection.protocol}"
    return f"{f'[{address}]' if ':' in address else address}:{connection.dest_port}/{connection.protocol}"


def _process(connection: Connection) -> str:
    return name(connection) or f"? {connection.attribution or ''}".rstrip()


def _user(connection: Connection) -> str:
    process = connection.process
    return process.user or "" if process else ""


def _pid(connection: Connection) -> str:
    process = connection.process
    return str(process.pid) if process and process.pid is not None else ""


def _exe(connection: Connection) -> str:
    process = connection.process
    return process.exe or "" if process else ""


_PROCESS = _Column("PROCESS", _process, 12, 24)
_SERVICE = _Column("SERVICE", lambda connection: service(connection.process) or "", 12, 40)
_USER = _Column("USER", _user, 8, 32)
_PID = _Column("PID", _pid, 10, 10)
_EXE = _Column("PROGRAM", _exe, 12, 60)
_DESTINATION = _Column("DESTINATION", destination, 51, 51)
_NAME = _Column("NAME", lambda connection: ",".join(connection.dest_names), 12, 50)
_RESULT = _Column("RESULT", lambda connection: connection.verdict or connection.result or "", 12, 16)

_IN_ORDER: dict[By, tuple[_Column, ...]] = {
    "both": (_PROCESS, _SERVICE, _USER, _PID, _DESTINATION, _NAME, _RESULT, _EXE),
    "process": (_PROCESS, _SERVICE, _USER, _PID, _DESTINATION, _NAME, _RESULT, _EXE),
    "destination": (_DESTINATION, _NAME, _PROCESS, _SERVICE, _USER, _PID, _RESULT, _EXE),
}
_BY_IMPORTANCE: dict[By, tuple[_Column, ...]] = {
    "both": (_PROCESS, _DESTINATION, _SERVICE, _USER, _RESULT, _NAME, _PID, _EXE),
    "process": (_PROCESS, _SERVICE, _USER, _DESTINATION, _PID, _RESULT, _NAME, _EXE),
    "destination": (_DESTINATION, _PROCESS, _NAME, _SERVICE, _USER, _RESULT, _PID, _EXE),
}
_KEPT = 2
"""So many of the most important columns are cut where they have no room, instead of left out."""
_LEAST_CUT = 4


def picture(view: View, by: By, about: About, size: tuple[int, int], *, fill: bool) -> Group:
    """Head, rows and foot for a screen of so many columns and lines; `fill` has the foot stand at its end."""
    width, height = size
    foot = _foot(view, about)[: max(1, height - _HEAD_LINES - LEAST_ROWS)]
    rows = view.rows[: max(1, height - _HEAD_LINES - len(foot))]
    blank = max(0, height - _HEAD_LINES - len(rows) - len(foot)) if fill else 0
    if not rows:
        blank = max(0, blank - 1)
    lines = [_line(_head(view, about, len(rows)), "bold", width)]
    table = _table(rows, by, width) if rows else Group("", _line("no connection so far", "dim", width))
    lines_below = [Text()] * blank + [_line(text, style, width) for text, style in foot]
    return Group(*lines, table, *lines_below)


def _line(text: str, style: str, width: int) -> Text:
    line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
    line.truncate(width, overflow="ellipsis")
    return line


def _table(rows: Sequence[Shown], by: By, width: int) -> Table:
    table = Table(
        box=None, show_header=True, header_style="reverse", pad_edge=False, padding=(0, 1, 0, 0), expand=False
    )
    rates = [_rate(row.per_s) for row in rows]
    totals = [str(row.total) for row in rows]
    counted = [max(4, *map(len, rates)), max(5, *map(len, totals))]
    table.add_column("", width=1, no_wrap=True)
    for title, room in zip(("RATE", "TOTAL"), counted, strict=True):
        table.add_column(Text(title), width=room, no_wrap=True, overflow="ellipsis", justify="right")
    texts = {column: [_safe(column.text(row.latest)) for row in rows] for column in _IN_ORDER[by]}
    widths = _widths(by, texts, width - 1 - sum(counted) - 2)
    for column in widths:
        table.add_column(Text(column.title), width=widths[column], no_wrap=True, overflow="ellipsis")
    for at, row in enumerate(rows):
        cells = [NEW if row.is_new else "", rates[at], totals[at]]
        cells += [_cut(texts[column][at], column, room) for column, room in widths.items()]
        table.add_row(*map(Text, cells), style="bold green" if row.is_new else "")
    return table


def _widths(by: By, texts: Mapping[_Column, Sequence[str]], room: int) -> dict[_Column, int]:
    """Widths of the columns that are shown, in order; each takes a space before it. Empty ones are left out."""
    wanted = {
        column: min(column.most, max(len(column.title), *map(cell_len, of_rows)))
        for column, of_rows in texts.items()
        if any(of_rows)
    }
    ranked = [column for column in _BY_IMPORTANCE[by] if column in wanted]
    given: dict[_Column, int] = {}
    for column in ranked[:_KEPT]:
        if room > _LEAST_CUT:
            given[column] = min(wanted[column], column.least, room - 1)
            room -= given[column] + 1
    for column in given:
        more = min(wanted[column] - given[column], room)
        given[column] += more
        room -= more
    for column in ranked[_KEPT:]:
        width = min(wanted[column], room - 1)
        if width >= min(wanted[column], column.least):
            given[column] = width
            room -= width + 1
    return {column: given[column] for column in _IN_ORDER[by] if column in given}


def _cut(text: str, column: _Column, width: int) -> str:
    """A destination that has no room keeps its port; the rest is cut by the table."""
    if column is not _DESTINATION or len(text) <= width or ":" not in text:
        return text
    end = text[text.rindex(":") :]
    return f"{text[: width - len(end) - 1]}…{end}" if len(end) + 1 < width else text


def _head(view: View, about: About, rows: int) -> str:
    minutes, seconds = divmod(view.running_s, 60)
    running = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    inputs = ", ".join(about.inputs) or "starting"
    count = f"{view.connections} connection{'' if view.connections == 1 else 's'}, {_rate(view.per_s)}/s"
    shown = f"rows 1-{rows} of {view.known}" if rows else "no rows"
    return f"pyegress {running}  {inputs}  {count}  {shown}"


def _foot(view: View, about: About) -> list[tuple[str, str]]:
    """Lines and their styles, the most important first."""
    stages: dict[str, list[tuple[int, str]]] = {}
    for (stage, reason), count in about.losses.items():
        stages.setdefault(stage, []).append((-count, reason))
    lines = [] if "lost" in stages else [("lost: 0", "")]
    for stage in sorted(stages, key=lambda stage: (stage not in _FIRST_STAGES, stage)):
        reasons = [f"{-negative} {_safe(reason)}" for negative, reason in sorted(stages[stage])]
        total = -sum(negative for negative, _ in stages[stage])
        counted = reasons[0] if len(reasons) == 1 else f"{total}: {', '.join(reasons)}"
        lines.append((f"{_safe(stage)}: {counted}", "bold red" if stage == "lost" else ""))
    if view.evicted:
        lines.insert(
            1,
            (
                f"rows: {view.evicted} not seen for longest were let go and would be new again (-O table:rows)",
                "bold red",
            ),
        )
    lines += [(text, "") for text in about.messages]
    return [*lines, (about.hint, "dim")]


def _rate(per_s: float) -> str:
    if per_s < 100:
        return f"{per_s:.1f}"
    return f"{per_s:.0f}" if per_s < 10_000 else f"{per_s / 1000:.0f}k"


def _safe(text: str) -> str:
    return display(text[:MOST_CHARACTERS])

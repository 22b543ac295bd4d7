# SPDX-License-Identifier: MIT
"""What is seen in which width, and that nothing of a name can be anything but text."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from pyegress.record import Connection, Process
from pyegress.watch.picture import About, destination, picture
from pyegress.watch.tally import By, Shown, View

LONGEST = "2001:1db8:aaaa:bbbb:cccc:dddd:eeee:ffff"
CURL = Process(
    pid=21735,
    name="curl",
    exe="/usr/bin/curl",
    user="www-data",
    unit="backup.service",
)
STYLES = {"\x1b[1m", "\x1b[2m", "\x1b[7m", "\x1b[0m", "\x1b[1;31m"}
ABOUT = About(["ebpf (fentry)"], {}, [], "hint")


def made(address: str = "192.0.2.1", port: int | None = 443, **fields: Any) -> Connection:
    """A connection."""
    fields = {"process": CURL, "attribution": "kernel", **fields}
    return Connection(1, "ebpf", "tcp", 6 if ":" in address else 4, address, port, **fields)


def view(*connections: Connection, is_new: bool = False, evicted: int = 0) -> View:
    """A row of each."""
    rows = [Shown(connection, 12345, 1.5, is_new) for connection in connections]
    return View(rows, len(rows), evicted, 20 * len(rows), 2.5, 3723)


def drawn(
    what: View,
    columns: int = 80,
    lines: int = 24,
    *,
    by: By = "both",
    about: About = ABOUT,
    fill: bool = True,
    colours: bool = False,
) -> list[str]:
    """The lines of a picture as a terminal without colours gets them."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=columns,
        height=lines,
        force_terminal=True,
        color_system="standard" if colours else None,
        markup=True,
        emoji=True,
        highlight=True,
    )
    console.print(picture(what, by, about, (columns, lines), fill=fill))
    text = file.getvalue()
    return [line.rstrip() for line in (text if colours else re.sub(r"\x1b\[[0-9;]*m", "", text)).splitlines()]


def test_picture_in_80_columns() -> None:
    """Time, hooks, counts; the row; the foot at the end of the screen."""
    lines = drawn(view(made(), is_new=True))
    assert lines[:3] == [
        "pyegress 1:02:03  ebpf (fentry)  20 connections, 2.5/s  rows 1-1 of 1",
        "  RATE TOTAL PROCESS SERVICE        USER     PID   DESTINATION",
        "+  1.5 12345 curl    backup.service www-data 21735 192.0.2.1:443/tcp",
    ]
    assert lines[3:-2] == [""] * 19
    assert lines[-2:] == ["lost: 0", "hint"]


def test_mark_of_new_rows_is_seen_without_colours() -> None:
    """It is a sign, and not there on others."""
    assert drawn(view(made()))[2].startswith("   1.5 12345 curl")


def test_wide_screen_has_everything() -> None:
    """Whatever is known of the row, and the longest address."""
    connection = made(LONGEST, 65535, dest_names=("a.example",), verdict="drop")
    (row,) = drawn(view(connection), 200)[2:3]
    assert row == (
        "   1.5 12345 curl    backup.service www-data 21735 "
        f"[{LONGEST}]:65535/tcp a.example drop   /usr/bin/curl"
    )


def test_longest_address_is_whole_in_80_columns() -> None:
    """What is less important goes; of the process there is enough."""
    heading, row = drawn(view(made(LONGEST, 65535, process=Process(name="a-name-of-15-ch"))))[1:3]
    assert row == f"   1.5 12345 a-name-of-15-ch [{LONGEST}]:65535/tcp"
    assert heading == "  RATE TOTAL PROCESS         DESTINATION"
    assert len(row) == 80


def test_cut_address_keeps_its_port() -> None:
    """In a window that is narrower still."""
    assert drawn(view(made(LONGEST, 65535)), 50)[2] == "   1.5 12345 curl    [2001:1db8:aaaa:bb…:65535/tcp"


@pytest.mark.parametrize("columns", range(1, 130))
@pytest.mark.parametrize("by", ["both", "process", "destination"])
def test_no_line_is_longer_than_the_window(columns: int, by: By) -> None:
    """And none is wrapped, whatever there is to say: as many lines as the window has."""
    wide = Process(pid=1, name="漢字" * 50, user="ü" * 40, unit="e\u0301" * 300, exe="/" + "x" * 300)
    what = view(
        made(LONGEST, 65535, process=wide, dest_names=("y" * 300,), result="ECONNREFUSED"),
        made(),
        made("192.0.2.1", None, process=None, attribution="process gone"),
    )
    about = About(["ebpf (cgroup)", "nflog"], {("lost", "ring full " * 30): 3}, ["m" * 300], "hint " * 50)
    lines = drawn(what, columns, by=by, about=about)
    assert len(lines) == 24
    assert max(map(cell_len, lines)) <= columns


def test_by_process_and_by_destination() -> None:
    """What the row is comes first, the newest of the other behind."""
    assert drawn(view(made()), by="process")[1].split()[2:] == [
        "PROCESS",
        "SERVICE",
        "USER",
        "PID",
        "DESTINATION",
    ]
    assert drawn(view(made()), by="destination")[1].split()[2:] == [
        "DESTINATION",
        "PROCESS",
        "SERVICE",
        "USER",
        "PID",
    ]


@pytest.mark.parametrize(("lines", "rows"), [(24, 18), (10, 4), (8, 3), (5, 2), (2, 1), (1, 1)])
def test_rows_have_what_room_there_is(lines: int, rows: int) -> None:
    """The foot is cut first, to losses in the end."""
    losses = {("lost", "ring full"): 3, ("skipped", "by ignore-port:53"): 7}
    many = view(*[made()] * 50)
    shown = drawn(many, lines=lines, about=About([], losses, ["message"], "hint"))
    assert sum("192.0.2.1" in line for line in shown) == rows
    assert f"rows 1-{rows} of 50" in shown[0]
    assert any("lost: 3 ring full" in line for line in shown)


def test_foot_has_losses_by_stage_and_reason() -> None:
    """Losses and who isn't known first, most frequent reasons first; what was let go of memory, too."""
    losses = {
        ("lost", "ring full"): 3,
        ("lost", "output x: queue full"): 30,
        ("skipped", "by ignore-port:53"): 7,
        ("unattributed", "process gone"): 2,
    }
    lines = drawn(view(made(), evicted=9), 120, about=About([], losses, ["12:00:00 said"], "hint"))
    assert lines[-6:] == [
        "lost: 33: 30 output x: queue full, 3 ring full",
        "rows: 9 not seen for longest were let go and would be new again (-O table:rows)",
        "unattributed: 2 process gone",
        "skipped: 7 by ignore-port:53",
        "12:00:00 said",
        "hint",
    ]


def test_nothing_yet() -> None:
    """Is said, and that it is being started."""
    lines = drawn(view(), about=About([], {}, [], "hint"))
    assert lines[0] == "pyegress 1:02:03  starting  0 connections, 2.5/s  no rows"
    assert lines[2] == "no connection so far"
    assert len(lines) == 24 and lines[-1] == "hint"


def test_last_picture_takes_no_more_lines_than_it_needs() -> None:
    """It stays among others of a shell."""
    assert len(drawn(view(made()), fill=False)) == 5


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;\x07\x1b[J", "\\u001b]0;\\u0007\\u001b[J"),
        ("[red]a[/red]", "[red]a[/red]"),
        ("[link=http://x]a[/]", "[link=http://x]a[/]"),
        (":smile:", ":smile:"),
        ("a\r\nb\x9b31m", "a\\r\\nb\\u009b31m"),
        ("\u202egnp", "\\u202egnp"),
        ("a\udcff", "a\\udcff"),
    ],
    ids=["escape", "markup", "link", "emoji", "lines", "direction", "bytes"],
)
def test_names_are_inert(name: str, shown: str, colours: bool) -> None:
    """Wherever they come from, they are escaped text: no sequence, no line, no markup."""
    process = Process(pid=1, name=name, user=name, unit=name, exe=name)
    about = About([], {("lost", name): 1}, [], "")
    lines = drawn(view(made(process=process, dest_names=(name,))), 300, about=about, colours=colours)
    text = "\n".join(lines)
    assert text.count(shown) == 6, text
    assert set(re.findall(r"\x1b\[?[^m]*m?", text)) <= STYLES
    assert len(lines) == 24


def test_signs_without_width_are_bounded() -> None:
    """They would fit in any number."""
    lines = drawn(view(made(process=Process(pid=1, name="a" + "\u0301" * 10_000))))
    assert lines[2].count("\u0301") < 300


@pytest.mark.parametrize(
    ("connection", "text"),
    [
        (made(), "192.0.2.1:443/tcp"),
        (made("2001:db8::1"), "[2001:db8::1]:443/tcp"),
        (made(port=None), "192.0.2.1 protocol tcp"),
    ],
)
def test_destination(connection: Connection, text: str) -> None:
    """Address, port, protocol."""
    assert destination(connection) == text


def test_unknown_process_says_why() -> None:
    """With the user where that is known."""
    found = made(process=Process(uid=5, user="x"), attribution="process gone")
    assert drawn(view(found))[2].split()[2:] == ["?", "process", "gone", "x", "192.0.2.1:443/tcp"]

# SPDX-License-Identifier: MIT
"""`pyegress apply`: load a file of rules for a trial, keep it, remove it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click

from pyegress import kernel
from pyegress.errors import UnsupportedError, UsageError
from pyegress.escape import display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyegress.apply.part import Part

EXIT_TAKEN_BACK = 1
LONGEST_S = 24 * 3600

Say = Callable[[str], None]


def command(say: Say) -> click.Command:
    """The command, which speaks to the user through `say`."""

    @click.command("apply")
    @click.argument("files", metavar="[FILE]...", nargs=-1)
    @click.option(
        "--confirm",
        "seconds",
        metavar="SECONDS",
        default="60",
        help="How long to wait for a yes; 0 keeps the rules at once. [default: 60]",
    )
    @click.option(
        "--keep", is_flag=True, help="Say yes to the `pyegress apply` that waits in another session."
    )
    @click.option("--remove", is_flag=True, help="Remove all that was applied, and nothing else.")
    @click.option(
        "--family", type=click.Choice(["4", "6"]), help="Of an iptables-restore file that doesn't tell."
    )
    @click.option("--table", metavar="NAME", help="With --remove: the nft table. [default: pyegress]")
    def apply(
        files: tuple[str, ...],
        seconds: str,
        keep: bool,
        remove: bool,
        family: Literal["4", "6"] | None,
        table: str | None,
    ) -> None:
        """Load rules, and take them back unless you confirm them in time.

        FILE is an nft file of pyegress, or one or two of its files for iptables-restore (IPv4 and IPv6). Only the
        table inet pyegress and the chain PYEGRESS with its jump from OUTPUT are touched; what they were before comes
        back after `no`, ctrl-c, the end of the time or of the connection, and also if pyegress is killed.

        From a new connection, `pyegress apply --keep` keeps the rules.
        """
        wait_s = _seconds(seconds)
        if bool(files) + keep + remove != 1:
            raise UsageError("apply: give either files, --keep or --remove")
        if family and not files:
            raise UsageError("--family: only with a file")
        if table is not None and not remove:
            raise UsageError("--table: only with --remove; a file says its table itself")
        if keep:
            _keep(say)
        elif remove:
            _remove("pyegress" if table is None else table, say)
        elif not _apply(files, None if family is None else 4 if family == "4" else 6, wait_s, say):
            raise click.exceptions.Exit(EXIT_TAKEN_BACK)

    return apply


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > LONGEST_S:
        raise UsageError(f"--confirm {display(text)}: must be a number of seconds, 0..{LONGEST_S}")
    return int(text)


def _keep(say: Say) -> None:
    from pyegress.apply import meeting

    meeting.keep()
    say("kept")


def _remove(table: str, say: Say) -> None:
    from pyegress.apply import backends, meeting
    from pyegress.apply.table import is_ours

    if not is_ours(table):
        raise UsageError(f"--table {display(table)}: tables of pyegress have names that begin with pyegress")
    _need_rights()
    with meeting.occupied():
        said = backends.removed(table)
    for line in said:
        say(line)
    if not said:
        say(f"nothing to remove: neither table inet {table} nor a chain PYEGRESS is there")


def _apply(files: Sequence[str], family: Literal[4, 6] | None, seconds: int, say: Say) -> bool:
    from pyegress.apply import backends, foreground, meeting, watchdog
    from pyegress.apply.files import parts as parts_of

    parts: list[Part] = parts_of(files, family)
    _need_rights()
    with meeting.occupied() as listener:
        for part in parts:
            part.check()
        for part in parts:
            part.remember()
        for notice in backends.notices(parts):
            say(notice)
        return foreground.applied(parts, seconds, lambda: watchdog.started(parts, seconds, listener), say)


def _need_rights() -> None:
    if "CAP_NET_ADMIN" in kernel.missing_capabilities():
        raise UnsupportedError("apply: missing CAP_NET_ADMIN; run as root, for example with sudo")

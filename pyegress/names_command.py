# SPDX-License-Identifier: MIT
"""`pyegress names refresh`: fill the sets of loaded rules by name with the addresses that the names have now."""

from __future__ import annotations

from collections.abc import Callable

import click

from pyegress.errors import InputError, UnsupportedError, UsageError
from pyegress.escape import display
from pyegress.kernel import effective_capabilities
from pyegress.privileges import Capability

EXIT_INCOMPLETE = 1
"""A name has no address now, or its addresses could not be loaded."""

Say = Callable[[str], None]


def command(say: Say) -> click.Command:
    """The command, which speaks to the user through `say`."""

    @click.command("names")
    @click.argument("what", metavar="refresh", type=click.Choice(["refresh"]))
    @click.option(
        "--table", metavar="NAME", default="pyegress", help="Table of nft rules. [default: pyegress]"
    )
    def names(what: str, table: str) -> None:
        """Look up the names that loaded rules are for, and allow the addresses that they have now.

        The names are those of the table inet pyegress and of the chain PYEGRESS (`pyegress rules --merge name`),
        asked for as any program of this host does. Addresses are added to the sets of these rules, for as long as
        their grace; none is removed before its time is over. For a timer: deploy/systemd/pyegress-names.timer.

        Exit status: 0 all names have addresses; 1 one has none now, or could not be asked for (what it had stays for
        its time, other names are refreshed), or no rules by name are loaded.
        """
        if not _refresh(table, say):
            raise click.exceptions.Exit(EXIT_INCOMPLETE)

    return names


def _refresh(table: str, say: Say) -> bool:
    """Whether each name has addresses."""
    from pyegress.apply import namesets
    from pyegress.apply.table import is_ours
    from pyegress.names.lookup import LookupFailedError, look_up_all

    if not is_ours(table):
        raise UsageError(f"--table {display(table)}: tables of pyegress have names that begin with pyegress")
    if not effective_capabilities() >> Capability.NET_ADMIN & 1:
        raise UnsupportedError("names refresh: missing CAP_NET_ADMIN; run as root, for example with sudo")
    sets = namesets.loaded(table)
    if not sets:
        raise InputError(
            f"names refresh: neither table inet {table} nor the chain PYEGRESS has rules by name; "
            "load some that pyegress rules --merge name made"
        )
    addresses = {}
    failed = 0
    for name, found in look_up_all(each.name for each in sets).items():
        if isinstance(found, LookupFailedError):
            failed += 1
            say(f"{name}: {display(str(found))}; the addresses that it had stay allowed for their time")
        else:
            addresses[name] = found
    count = namesets.fill(sets, addresses, table)
    say(
        f"{len(addresses)} of {len(addresses) + failed} names refreshed: {count} addresses added for their time"
    )
    return not failed

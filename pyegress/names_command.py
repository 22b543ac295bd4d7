# SPDX-License-Identifier: MIT
"""`pyegress names`: fill the sets of loaded rules by name, with the addresses that the names have now or are given."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import click

from pyegress.errors import InputError, UnsupportedError, UsageError
from pyegress.escape import display
from pyegress.kernel import effective_capabilities
from pyegress.privileges import Capability
from pyegress.service import Service
from pyegress.signals import watched

EXIT_INCOMPLETE = 1
"""A name has no address now, or its addresses could not be loaded."""

Say = Callable[[str], None]


def command(say: Say) -> click.Command:
    """The command, which speaks to the user through `say`."""

    @click.command("names")
    @click.argument("what", metavar="refresh|follow", type=click.Choice(["refresh", "follow"]))
    @click.option(
        "--table", metavar="NAME", default="pyegress", help="Table of nft rules. [default: pyegress]"
    )
    @click.option(
        "--server",
        "servers",
        metavar="ADDRESS",
        multiple=True,
        help="follow: resolver whose answers are believed, instead of the host's own; repeatable. [default: those of "
        "/etc/resolv.conf, and whom systemd-resolved or dnsmasq there asks]",
    )
    def names(what: str, table: str, servers: tuple[str, ...]) -> None:
        """Allow the addresses that the names of loaded rules have (refresh), or are given from now on (follow).

        The names are those of the table inet pyegress and of the chain PYEGRESS (`pyegress rules --merge name`).
        Addresses are added to the sets of these rules, for as long as their grace; none is removed before its time is
        over.

        refresh asks for the names as any program of this host does, once. For a timer:
        deploy/systemd/pyegress-names.timer. Exit status: 0 all names have addresses; 1 one has none now, or could not
        be asked for (what it had stays for its time, other names are refreshed), or no rules by name are loaded.

        follow runs until stopped and takes the answers of this host's resolvers as they come, so that a connection
        right after one goes through. SIGHUP: see which rules are loaded, which is seen by itself except for
        iptables-legacy. As a service: deploy/systemd/pyegress-names-follow.service.
        """
        from pyegress.apply.table import is_ours

        if servers and what == "refresh":
            raise UsageError("--server: only with follow; refresh asks as any program of this host does")
        if not is_ours(table):
            raise UsageError(
                f"--table {display(table)}: tables of pyegress have names that begin with pyegress"
            )
        needed = [Capability.NET_ADMIN, *([Capability.NET_RAW] if what == "follow" else [])]
        for each in needed:
            if not effective_capabilities() >> each & 1:
                raise UnsupportedError(
                    f"names {what}: missing CAP_{each.name}; run as root, for example with sudo"
                )
        if what == "follow":
            _follow(table, servers, say)
        elif not _refresh(table, say):
            raise click.exceptions.Exit(EXIT_INCOMPLETE)

    return names


def _refresh(table: str, say: Say) -> bool:
    """Whether each name has addresses."""
    from pyegress.apply import namesets
    from pyegress.names.lookup import LookupFailedError, look_up_all

    sets = namesets.loaded(table)
    if not sets:
        raise _none_loaded("refresh", table)
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


def _follow(table: str, given: Sequence[str], say: Say) -> None:
    """Until a signal ends it."""
    from pyegress.apply.follow import Follower
    from pyegress.names.servers import Servers
    from pyegress.rules.addresses import target_of

    fixed = []
    for text in given:
        target = target_of(text)
        if target is None:
            raise UsageError(f"--server {display(text)}: must be an IP address")
        fixed.append(target.network)
    service = Service()
    follower = Follower(table, Servers(fixed), say)
    try:
        if not follower.names:
            raise _none_loaded("follow", table)
        actions: dict[int, Callable[[], None]] = {
            signal.SIGINT: follower.stop,
            signal.SIGTERM: follower.stop,
            signal.SIGHUP: follower.look_again,
        }
        with watched(actions):
            say(f"following {follower.names} names; press ctrl-c to stop")
            service.ready(f"following {follower.names} names")
            follower.run()
        service.stopping()
        say(
            f"{follower.answers} answers seen: {follower.added} addresses added for their time, "
            f"{follower.failed} failed"
        )
        for line in follower.losses().lines():
            say(line)
    finally:
        follower.close()


def _none_loaded(what: str, table: str) -> InputError:
    return InputError(
        f"names {what}: neither table inet {table} nor the chain PYEGRESS has rules by name; "
        "load some that pyegress rules --merge name made"
    )

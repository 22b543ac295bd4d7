# SPDX-License-Identifier: MIT
"""Addresses of names, asked for as programs of this host do: getaddrinfo, with /etc/hosts and what nsswitch has."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pyegress.errors import EgressError
from pyegress.rules.addresses import Network, target_of
from pyegress.rules.hostnames import is_host_name

MOST = 256
"""Addresses of one name; a CDN gives a dozen."""
_AT_ONCE = 8
_MULTICAST = {4: (0xE0 << 24, 4), 6: (0xFF << 120, 8)}


class LookupFailedError(EgressError):
    """No address came of it."""


def look_up_all(names: Iterable[str]) -> dict[str, list[Network] | LookupFailedError]:
    """The addresses of each, or why there are none; several at once, as each waits as long as the resolver has it."""
    wanted = list(dict.fromkeys(names))
    with ThreadPoolExecutor(min(_AT_ONCE, len(wanted) or 1), "names") as pool:
        return dict(zip(wanted, pool.map(_outcome, wanted), strict=True))


def look_up(name: str) -> list[Network]:
    """Of one name, at most MOST, IPv4 first; those that are no host's are left out. Raises LookupFailedError."""
    if not is_host_name(name):
        raise LookupFailedError("no plain name of a host")
    try:
        found = _asked(name)
    except OSError as error:
        raise LookupFailedError(error.strerror or str(error)) from error
    hosts = set(filter(None, map(host_of, found)))
    if not hosts:
        raise LookupFailedError("no address of a host")
    return sorted(hosts)[:MOST]


def host_of(address: str) -> Network | None:
    """The address; None where it is no host's that a rule can be for."""
    target = target_of(address)
    if target is None or target.network.is_link_local or _is_multicast(target.network):
        return None
    return target.network


def _asked(name: str) -> list[str]:
    # The dot keeps search domains out; /etc/hosts has names without it.
    with suppress(socket.gaierror):
        return _addresses(f"{name}.")
    return _addresses(name)


def _addresses(name: str) -> list[str]:
    return [str(each[4][0]) for each in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def _is_multicast(network: Network) -> bool:
    first, prefix = _MULTICAST[network.family]
    return (network.first ^ first) >> (32 if network.family == 4 else 128) - prefix == 0


def _outcome(name: str) -> list[Network] | LookupFailedError:
    try:
        return look_up(name)
    except LookupFailedError as error:
        return error

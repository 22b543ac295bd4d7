# SPDX-License-Identifier: MIT
"""Firewall rules that give the nflog and nfqueue inputs something to see, as text to load.

They stand where mangle rules do, so that an accepted packet still meets the host's filter rules: an accepting
verdict ends the way through its own table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyegress import options
from pyegress.errors import UsageError
from pyegress.escape import display
from pyegress.options import Queues

LARGEST_GROUP = 65535

_COMMANDS = ("iptables", "ip6tables")
_MATCH = "! -o lo -m conntrack --ctstate NEW"
_NFT_MATCH = 'oifname != "lo" ct state new'
_NFT = """\
table inet {table}
delete table inet {table}
table inet {table} {{
  chain output {{
    type filter hook output priority mangle; policy accept;
    {rule}
  }}
}}
"""


_Value = TypeVar("_Value")


def text(what: str, firewall: str, *, group: str, queue: str, bypass: bool) -> str:
    """Rules for nflog or nfqueue, for iptables or nft, from the words of a command line."""
    if what == "nflog":
        return nflog(_read("group", _group, group), firewall)
    return nfqueue(_read("queue", options.queues, queue), bypass, firewall)


def nflog(group: int, firewall: str) -> str:
    """Log the first packets of each outbound connection to a group."""
    head = [
        f"Logs packets of new outbound connections to netlink group {group}, for: pyegress run --nflog {group}",
        "Nothing is held up or dropped, whether pyegress runs or not.",
    ]
    if firewall == "nft":
        return _nft("pyegress_nflog", f"log group {group}", head)
    return _iptables(f"-j NFLOG --nflog-group {group}", head)


def nfqueue(queues: Queues, bypass: bool, firewall: str) -> str:
    """Ask pyegress about the first packets of each outbound connection, by one queue or several."""
    several = queues.last > queues.first
    head = [
        f"Holds packets of new outbound connections in queue {queues} until pyegress gives its verdict,",
        f"for: pyegress run --nfqueue {queues}",
    ]
    if bypass:
        head.append("Fail-open: while pyegress doesn't run, all connections pass (bypass).")
    else:
        head.append(
            "Fail-closed: while pyegress doesn't run, NO new connection leaves this host (no bypass)."
        )
    head.append("What finds the queue full is dropped, or passes with -I nfqueue:fail-open:true.")
    if several:
        head.append("Each CPU has its queue (fan-out); there should be no more queues than CPUs.")
    if firewall == "nft":
        flags = ",".join(["bypass"] * bypass + ["fanout"] * several)
        return _nft("pyegress_nfqueue", f"queue {f'flags {flags} ' if flags else ''}to {queues}", head)
    target = f"--queue-num {queues}"
    if several:
        target = f"--queue-balance {queues.first}:{queues.last} --queue-cpu-fanout"
    return _iptables(f"-j NFQUEUE {target}{' --queue-bypass' if bypass else ''}", head)


def _read(option: str, read: Callable[[str], _Value], given: str) -> _Value:
    try:
        return read(given)
    except ValueError as error:
        raise UsageError(f"--{option} {display(given)}: {error}") from None


def _group(given: str) -> int:
    group = options.whole_number(given)
    if not 0 <= group <= LARGEST_GROUP:
        raise ValueError(f"must be 0..{LARGEST_GROUP}")
    return group


def _iptables(target: str, head: list[str]) -> str:
    rule = f"-t mangle {{}} {_MATCH} {target}"
    head += [
        "Loopback is left out; to see it too (allow-loopback) leave `! -o lo` out.",
        "Load with: sh FILE. Remove with:",
        *(f"  {command} -w {rule.format('-D OUTPUT')}" for command in _COMMANDS),
    ]
    lines = [f"{command} -w {rule.format('-I OUTPUT 1')}" for command in _COMMANDS]
    return _commented(head) + "".join(f"{line}\n" for line in lines)


def _nft(table: str, statement: str, head: list[str]) -> str:
    head += [
        'Loopback is left out; to see it too (allow-loopback) leave `oifname != "lo"` out.',
        "Load with: nft -f FILE. Remove with:",
        f"  nft delete table inet {table}",
    ]
    return _commented(head) + _NFT.format(table=table, rule=f"{_NFT_MATCH} {statement}")


def _commented(head: list[str]) -> str:
    return "".join(f"# {line}\n" for line in head)

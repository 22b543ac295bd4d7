# SPDX-License-Identifier: MIT
"""What a tool recorded -> how many calls to one port, and how many of them with the right process."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import NamedTuple

from bench.peers import TARGET
from tests.traffic import FOLDER

COMM = "traffic"


class Sought(NamedTuple):
    """Calls that a record is read for."""

    port: int | None
    """None: of a protocol without ports."""
    pids: frozenset[int]
    """Of the processes that made them."""
    address: str = TARGET
    comms: tuple[str, ...] = (COMM,)
    """What these processes may be called."""


class Seen(NamedTuple):
    """Calls that a tool recorded."""

    events: int
    named: int
    """Of these: with the right process."""
    records: int
    """In how many lines or the like it told those, of the right process where it names any."""


Reader = Callable[[str, Sought], Seen]
"""(what the tool wrote, what is sought)"""


def lines(pattern: str, process: str | None = None, portless: str | None = None) -> Reader:
    """Lines with a pattern, {target} and {port} in it; its group `count`, if any, says how many calls each stands for.

    `process`: what such a line has where the process is right, with {pid} or {comm} in it. `portless`: the pattern
    where there is no port; None where the tool tells no such protocols.
    """

    def read(text: str, sought: Sought) -> Seen:
        shape = portless if sought.port is None else pattern
        if shape is None:
            return Seen(0, 0, 0)
        wanted = re.compile(
            shape.replace("{port}", str(sought.port)).replace("{target}", re.escape(sought.address))
        )
        pids, comms = (f"(?:{'|'.join(map(str, each))})" for each in (sought.pids, sought.comms))
        right = re.compile(process.replace("{pid}", pids).replace("{comm}", comms)) if process else None
        events = named = records = 0
        for line in text.splitlines():
            found = wanted.search(line)
            if found is None:
                continue
            count = int(found.groupdict().get("count") or 1)
            events += count
            if right is None or right.search(line):
                records += 1
                named += count if right else 0
        return Seen(events, named, records)

    return read


def audit(text: str, sought: Sought) -> Seen:
    """Records of auditd: a call's address and its process are lines with the same number."""
    number = re.compile(r"msg=audit\(([^)]+)\)")
    address = re.compile(f"saddr={_saddr(sought)}")
    process = re.compile(
        rf" pid=(?:{'|'.join(map(str, sought.pids))}) .* exe=\"{re.escape(str(FOLDER))}/(?:traffic|short)\""
    )
    found: set[str] = set()
    named: set[str] = set()
    for line in text.splitlines():
        match = number.search(line)
        if match is None:
            continue
        if line.startswith("type=SOCKADDR") and address.search(line):
            found.add(match[1])
        elif line.startswith("type=SYSCALL") and process.search(line):
            named.add(match[1])
    return Seen(len(found), len(found & named), len(found & named))


def _saddr(sought: Sought) -> str:
    """The bytes of a struct sockaddr, as a pattern: flow labels of IPv6 may be any."""
    port = f"{sought.port or 0:04X}"
    if ":" in sought.address:
        return f"0A00{port}[0-9A-F]{{8}}{socket.inet_pton(socket.AF_INET6, sought.address).hex().upper()}"
    return f"0200{port}{socket.inet_pton(socket.AF_INET, sought.address).hex().upper()}"

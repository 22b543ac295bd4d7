# SPDX-License-Identifier: MIT
"""What a tool recorded -> how many calls to one port, and how many of them with the right process."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from bench.peers import TARGET
from tests.traffic import FOLDER

COMM = "traffic"


class Seen(NamedTuple):
    """Calls to a port that a tool recorded."""

    events: int
    named: int


Reader = Callable[[str, int, int], Seen]
"""(what the tool wrote, port, pid of the sender)"""


def lines(pattern: str, process: str | None = None) -> Reader:
    """Lines with a pattern, {port} in it; its group `count`, if any, says how many calls a line stands for.

    `process`: what such a line has where the process is right, with {pid} in it.
    """

    def read(text: str, port: int, pid: int) -> Seen:
        wanted = re.compile(pattern.replace("{port}", str(port)).replace("{target}", re.escape(TARGET)))
        right = re.compile(process.replace("{pid}", str(pid))) if process else None
        events = named = 0
        for line in text.splitlines():
            found = wanted.search(line)
            if found is None:
                continue
            count = int(found.groupdict().get("count") or 1)
            events += count
            if right is not None and right.search(line):
                named += count
        return Seen(events, named)

    return read


def audit(text: str, port: int, pid: int) -> Seen:
    """Records of auditd: a call's address and its process are lines with the same number."""
    number = re.compile(r"msg=audit\(([^)]+)\)")
    address = f"saddr=0200{port:04X}7F000001"
    process = f" pid={pid} "
    found: set[str] = set()
    named: set[str] = set()
    for line in text.splitlines():
        match = number.search(line)
        if match is None:
            continue
        if line.startswith("type=SOCKADDR") and address in line:
            found.add(match[1])
        elif line.startswith("type=SYSCALL") and process in line and f'exe="{FOLDER / COMM}"' in line:
            named.add(match[1])
    return Seen(len(found), len(found & named))

# SPDX-License-Identifier: MIT
"""Records and processes that benchmarks are fed with: as a service has them that somebody started from a shell."""

from __future__ import annotations

import socket
from typing import Any

from pyegress._native import ffi
from pyegress.decode.event import EventDecoder
from pyegress.record import Connection, Process

NETNS = 4026531840
BATCH = 1024
"""Records that a read from the ring gives at most."""
TS = 1_790_000_000_000_000_000


def process(number: int = 0) -> Process:
    """A program with its ancestors; numbers tell them apart."""
    made = None
    for pid, name, exe in (
        (1, "systemd", "/usr/lib/systemd/systemd"),
        (811, "sshd", "/usr/sbin/sshd"),
        (2048, "bash", "/usr/bin/bash"),
        (30_000 + number, "curl", "/usr/bin/curl"),
    ):
        made = Process(
            pid=pid,
            start_ns=pid * 1_000_000,
            comm=name,
            name=name,
            exe=exe,
            cmdline=f"{name} --silent https://mirror-{number}.example.net/pool/",
            uid=1000,
            gid=1000,
            user="deploy",
            session_pid=2048,
            session_name="bash",
            cgroup_id=9000,
            cgroup="/system.slice/deploy.service",
            unit="deploy.service",
            slice="system.slice",
            netns=NETNS,
            pidns=4026531836,
            parent=made,
        )
    assert made is not None
    return made


def raw(count: int = BATCH, programs: int = 1) -> bytes:
    """Whole records of the ring, to 256 addresses in turn."""
    one = ffi.new("struct egress_event *")
    return b"".join(_event(one, number, number % programs) for number in range(count))


def decoder() -> EventDecoder:
    """One for which the number of a program is its tgid."""
    return EventDecoder(ffi, lambda seen: process(seen.identity.tgid), NETNS, lambda index: None)


def connections(count: int = BATCH, programs: int = 1) -> list[Connection]:
    """What `raw` decodes to."""
    return decoder().decode(raw(count, programs), TS)


def _event(one: Any, number: int, program: int) -> bytes:
    v4 = b"\0" * 10 + b"\xff\xff"
    one.ts_ns, one.count, one.tid, one.netns, one.socket_uid = number * 1000, 1, program, NETNS, 1000
    one.sport, one.dport, one.family, one.protocol = 30000 + number % 30000, 443, 4, socket.IPPROTO_TCP
    one.saddr, one.daddr = v4 + bytes((192, 0, 2, 1)), v4 + bytes((198, 51, 100, number & 255))
    one.process.identity.tgid, one.process.comm = program, b"curl"
    return bytes(ffi.buffer(one))

# SPDX-License-Identifier: MIT
"""A program that connects and stays, so that it can be found: `client.py NAME WHAT ADDRESS PORT ...`.

It prints its pid once everything was sent, and ends with its stdin. NAME becomes its comm, as hex bytes where it
begins with 0x. Each WHAT: tcp, udp (unconnected), udpconn, mapped (UDP over an AF_INET6 socket), mappedtcp, burst
(1,000 datagrams from one socket), listen (TCP), redirect (UDP connected to port 9 there, sent to PORT), ping (an
ICMP echo).
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

_ECHO_REQUEST = b"\x08\0\xf7\xff\0\0\0\0"
kept = []


def act(what: str, address: str, port: int) -> None:
    """Send one thing; a refusal is an outcome, not a failure."""
    is_mapped = what.startswith("mapped")
    family = socket.AF_INET6 if ":" in address or is_mapped else socket.AF_INET
    where = (f"::ffff:{address}" if is_mapped else address, port)
    stream = what.endswith("tcp") or what == "listen"
    if what == "ping":
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    else:
        made = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    kept.append(made)
    made.setblocking(False)
    if what == "listen":
        made.bind(where)
        made.listen()
    elif stream:
        made.connect_ex(where)
    elif what == "udpconn":
        made.connect(where)
        made.send(b"x")
    elif what == "redirect":
        made.connect((where[0], 9))
        made.sendto(b"x", where)
    elif what == "ping":
        made.sendto(_ECHO_REQUEST, (address, 0))
    else:
        for _ in range(1000 if what == "burst" else 1):
            made.sendto(b"x" * 100, where)


def main() -> None:
    """Take a name, act, stay."""
    name, *words = sys.argv[1:]
    raw = bytes.fromhex(name[2:]) if name.startswith("0x") else name.encode()
    Path("/proc/self/comm").write_bytes(raw)
    for at in range(0, len(words), 3):
        act(words[at], words[at + 1], int(words[at + 2]))
    print(Path("/proc/self").resolve().name, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

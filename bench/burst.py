# SPDX-License-Identifier: MIT
"""Connects from two busy CPUs of a guest, as fast as they can: does the reader keep up, and is what it loses counted?

`python -m bench.burst 5000000` does it with that many; with a path before that, the script runs in this kernel.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench import Table, console, show
from bench.inguest import results
from tests import traffic

KERNEL = "6.12"
CONNECTS = 200_000
SENDERS = 2
PER_S = 1_500
"""A guest that makes fewer connects a second hangs."""
END_LIMIT_S = 300.0
TARGET = ("127.0.0.1", "45000")


class Burst(msgspec.Struct, frozen=True):
    """What came of it."""

    sent: int
    seen: int
    lost: int
    """As pyegress says at its end."""
    seconds: float
    """That the senders took, of the guest's time."""


def measure(connects: int) -> Table:
    """Boot one guest; raises Unavailable where none can run."""
    timeout_s = 2 * END_LIMIT_S + connects / PER_S
    found = results(KERNEL, "bench.burst", str(connects), timeout_s=timeout_s)
    burst = msgspec.json.decode(found, type=Burst)
    return Table(
        f"{SENDERS} senders on two CPUs of a guest with {KERNEL}, connects as fast as they can, ring as by default",
        ("sent", "a second", "seen", "lost", "seen + lost - sent"),
        [
            (
                f"{burst.sent:,}",
                f"{burst.sent / burst.seconds:,.0f}",
                f"{burst.seen:,}",
                f"{burst.lost:,}",
                f"{burst.seen + burst.lost - burst.sent:,}",
            )
        ],
    )


def observe(connects: int) -> Burst:
    """In the guest."""
    options = ("-I", "ebpf:allow-loopback:true", "-I", "ebpf:quiet:true", "-o", "logfmt")
    ready, says_ready = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pyegress", "run", "--ebpf", *options, "-O", "logfmt:file:/dev/null"),
            *("--ready-fd", str(says_ready)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[says_ready],
    )
    os.close(says_ready)
    os.read(ready, 16)
    line = [str(traffic.traffic()), "bench", "tcp", *TARGET, str(connects // SENDERS)]
    start = time.monotonic()
    senders = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(SENDERS)]
    sent = sum(int(traffic.words(sender.communicate()[0])["sent"]) for sender in senders)
    seconds = time.monotonic() - start
    process.terminate()
    said = process.communicate(timeout=END_LIMIT_S)[1]
    print(said, flush=True)
    seen = re.search(r"([\d,]+) connections", said)
    lost = re.findall(r"lost: ([\d,]+)", said)
    if process.returncode or seen is None:
        raise RuntimeError(f"burst: pyegress exited with {process.returncode}: {said}")
    return Burst(sent, _number(seen[1]), sum(map(_number, lost)), seconds)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(observe(int(sys.argv[2]))))
    else:
        show(console(), measure(int(sys.argv[1]) if len(sys.argv) > 1 else CONNECTS))

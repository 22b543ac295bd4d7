# SPDX-License-Identifier: MIT
"""What a send or connect costs more with hooks attached, in instructions of one guest kernel.

QEMU's `-icount shift=0` makes a nanosecond of the guest one instruction: the figures repeat, whatever else runs here.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

import msgspec

from bench import Table
from bench.inside import KINDS, Results
from tests import guest
from tests.traffic import traffic

KERNELS = ("6.12", "6.1")
UPSTREAM_KERNEL = "6.12"
UPSTREAM = {"udp": 2451, "tcp": 3631}
"""Instructions that upstream's program adds to a datagram and a connect on that kernel, measured the same way."""
LIMIT_S = 420


def measure(kernel: str, quick: bool) -> Table:
    """Boot one guest and measure in it; raises Unavailable where no guest can run."""
    guest.check_host()
    traffic()  # built here: the guest would take minutes
    with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as scratch:
        results = _boot(kernel, Path(scratch), 100 if quick else 300)
    compared = kernel == UPSTREAM_KERNEL
    rows = []
    for case in results.cases:
        protocol = case.call.split()[1]
        row = [case.name, f"{case.bare:,}"]
        for kind in KINDS:
            extra = case.attached[kind] - case.bare
            row.append(f"{extra:+,}")
            if compared:
                row.append(f"{extra / UPSTREAM[protocol]:.2f}")
        rows.append(tuple(row))
    titles = [title for kind in KINDS for title in ((kind, "/ upstream") if compared else (kind,))]
    beside = (
        f"; upstream adds {UPSTREAM['udp']:+,} to a datagram, {UPSTREAM['tcp']:+,} to a connect"
        if compared
        else ""
    )
    return Table(
        f"Instructions per call on {kernel}, added to bare ones{beside}; drift {results.drift}",
        ("call", "bare", *titles),
        rows,
    )


def _boot(kernel: str, scratch: Path, count: int) -> Results:
    found = scratch / "results.json"
    log = scratch / "console.log"
    command = shlex.join([sys.executable, "-m", "bench.inside", str(found), str(count)])
    root = shlex.quote(str(Path(__file__).resolve().parent.parent))
    status = guest.boot(
        kernel,
        f"export PYTHONDONTWRITEBYTECODE=1\ncd {root} && {command}\n",
        qemu_opts=("-icount", "shift=0"),
        cpus=1,
        timeout_s=LIMIT_S,
        log=log,
    )
    if status:
        raise guest.BootError(f"bench.inside exited with {status}:\n{guest.log_tail(log)}")
    return msgspec.json.decode(found.read_bytes(), type=Results)

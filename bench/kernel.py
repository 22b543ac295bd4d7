# SPDX-License-Identifier: MIT
"""What a send or connect costs more with hooks attached, in instructions of one guest kernel.

QEMU's `-icount shift=0` makes a nanosecond of the guest one instruction: the figures repeat, whatever else runs here.
"""

from __future__ import annotations

import msgspec

from bench import Table
from bench.figures import Figures, figures_of
from bench.inguest import results
from bench.inside import GOALS, KINDS, Results
from bench.insidenames import Move
from tests import guest

KERNELS = ("6.12", "6.1")
UPSTREAM_KERNEL = "6.12"
UPSTREAM = {"udp": 2451, "tcp": 3631}
"""Instructions that upstream's program adds to a datagram and a connect on that kernel, measured the same way."""
LIMIT_S = 900


def measure(kernel: str, quick: bool) -> tuple[Table, Figures]:
    """Boot one guest and measure in it; raises Unavailable where no guest can run."""
    data = _boot(kernel, "bench.inside", str(100 if quick else 300), GOALS if quick else "")
    measured = msgspec.json.decode(data, type=Results)
    compared = kernel == UPSTREAM_KERNEL
    rows = []
    for case in measured.cases:
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
    table = Table(
        f"Instructions per call on {kernel}, added to bare ones{beside}; drift {measured.drift}",
        ("call", "bare", *titles),
        rows,
    )
    return table, figures_of(measured, guest.kernel_dir(kernel).name)


def measure_names(kernel: str) -> Table:
    """Boot one guest and measure what names cost in it; raises Unavailable where no guest can run."""
    moves = msgspec.json.decode(_boot(kernel, "bench.insidenames", "100"), type=list[Move])
    rows = []
    for move in moves:
        row = [move.name, f"{move.bare:,}"]
        for spent in move.observed.values():
            row += [f"{spent - move.bare:+,}", f"{spent / move.bare - 1:.1%}"]
        rows.append(tuple(row))
    titles = [title for name in moves[0].observed for title in (f"names:{name}", "")]
    return Table(
        f"Instructions on {kernel} to send and receive over loopback, added by names",
        ("what", "without", *titles),
        rows,
    )


def _boot(kernel: str, module: str, *arguments: str) -> bytes:
    """What a module writes that runs where a ns is an instruction."""
    return results(kernel, module, *arguments, qemu_opts=("-icount", "shift=0"), cpus=1, timeout_s=LIMIT_S)

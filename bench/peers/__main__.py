# SPDX-License-Identifier: MIT
"""Measure other tools beside pyegress in one guest, as root, and print a table."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import msgspec

from bench import Table, console, show
from bench.peers import FILE, LOAD_TITLES, ORIGINAL, SCORES, SHARED, Results, Row, Scores, packages
from tests import guest
from tests.traffic import short, traffic

KERNEL = "6.12"
CALLS = 1000
LIMIT_S = 3600
_OWN_ROOT = """
mount -t tmpfs tmpfs /run/peers
tree=/run/cached{tree}
for place in etc var root home; do
  mkdir -p /run/peers/upper/$place /run/peers/work/$place
  lower=/$place; [ -d $tree/$place ] && lower=$tree/$place:/$place
  mount -t overlay -o lowerdir=$lower,upperdir=/run/peers/upper/$place,workdir=/run/peers/work/$place overlay /$place
done
mount -t overlay -o lowerdir=$tree/usr:/usr overlay /usr
version=$(uname -r)
mkdir -p /run/peers/tmp /run/peers/modules/$version /var/log/audit
own=$(readlink -f /run/modules/$version)
mount -t overlay -o lowerdir=$tree/usr/lib/modules/$version:$own overlay /run/peers/modules/$version
mount --rbind /run/peers/modules /lib/modules
mount --bind /run/peers/tmp /tmp
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin PYTHONDONTWRITEBYTECODE=1
"""
"""The host's root with the tools in it, and nothing written to the host."""


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--only", default="", metavar="PART", help="tools with this in their names")
    parser.add_argument("--kernel", default=KERNEL, choices=guest.KERNELS, help="(default %(default)s)")
    parser.add_argument("--calls", type=int, default=CALLS, help="of each load (default %(default)s)")
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep the results in {FILE.name}, those of other tools with them",
    )
    parser.add_argument("--original", type=Path, metavar="PROGRAM", help="an egress-auditor for this machine")
    parser.add_argument(
        "--scenarios", action="store_true", help="not what they cost, but what they tell of many ways to send"
    )
    parser.add_argument("--log", type=Path, help="keep the guest's console there")
    given = parser.parse_args()
    try:
        guest.check_host()
        kernel = guest.kernel_dir(given.kernel).name
        tree = packages.unpacked(kernel)
        traffic()  # built here: the guest would take minutes
        boot = partial(_boot, given.kernel, tree, kernel, original=given.original, log=given.log)
        if given.scenarios:
            short()
            scores = msgspec.json.decode(boot("score", given.only), type=Scores)
        else:
            found = boot("inside", str(given.calls), given.only, counts=True)
            results = msgspec.json.decode(found, type=Results)
    except (guest.Unavailable, guest.BootError) as error:
        print(f"bench.peers: {error}", file=sys.stderr)
        return 1
    if given.scenarios:
        if given.record:
            SCORES.write_bytes(msgspec.json.format(msgspec.json.encode(scores)) + b"\n")
        show(console(), score_table(scores))
        return 0
    if given.record:
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(_beside_kept(results))) + b"\n")
    show(console(), table(results))
    return 0


def _beside_kept(results: Results) -> Results:
    """With the rows of tools that were not measured this time, where kernel and number of calls are the same."""
    kept = msgspec.json.decode(FILE.read_bytes(), type=Results) if FILE.exists() else results
    if (kept.kernel, kept.calls) != (results.kernel, results.calls):
        return results
    new = {(row.peer, row.load): row for row in results.rows}
    order = dict.fromkeys([*((row.peer, row.load) for row in kept.rows), *new])
    old = {(row.peer, row.load): row for row in kept.rows}
    return msgspec.structs.replace(results, rows=[new.get(key) or old[key] for key in order])


def table(results: Results) -> Table:
    """As it is printed."""
    bare = ", ".join(f"{LOAD_TITLES[load]} {count:,}" for load, count in results.bare.items())
    return Table(
        f"Instructions added to a call on {results.kernel}; bare: {bare}; drift {results.drift}",
        ("tool", "load", "least", "median", "mean", "its own", "idle/s", "seen of sent", "process", "note"),
        [_cells(row) for row in results.rows],
    )


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.least, row.median, row.mean, row.own, row.idle)
    if None in numbers:
        return (row.peer, *[""] * 8, row.note)
    right = f"{row.named:,} right" if row.names_processes else "none"
    shown = [f"{number:,}" for number in numbers]
    return (row.peer, LOAD_TITLES[row.load], *shown, f"{row.seen:,} of {row.sent:,}", right, row.note)


def score_table(scores: Scores) -> Table:
    """As it is printed."""
    rows: list[tuple[str, ...]] = []
    for row in scores.rows:
        told = {*row.whole, *row.part}
        missed = " ".join(name for name in scores.scenarios if name not in told)
        whose = "right" if row.names_processes else "none told"
        rows.append(
            (row.peer, str(len(row.whole)), str(len(row.part)), f"{row.records:,}", whose, row.note or missed)
        )
    title = f"{len(scores.scenarios)} ways to send, on {scores.kernel}"
    return Table(title, ("tool", "told", "in part", "records of a flow", "process", "not told"), rows)


def _boot(
    series: str,
    tree: Path,
    kernel: str,
    module: str,
    *words: str,
    original: Path | None,
    log: Path | None,
    counts: bool = False,
) -> bytes:
    """What a module of this package writes in a guest; `counts`: whose clock counts instructions."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as scratch:
        found = Path(scratch, "results.json")
        if original:
            shutil.copy(original, Path(scratch, ORIGINAL.name))
        console_log = log or Path(scratch, "console.log")
        inside = [sys.executable, "-m", f"bench.peers.{module}", str(SHARED / found.name)]
        command = shlex.join([*inside, str(tree), kernel, *words])
        # Bound before /tmp becomes another one.
        script = (
            f"mkdir -p {SHARED} /run/peers\nmount --bind {shlex.quote(scratch)} {SHARED}\n"
            f"{_OWN_ROOT.replace('{tree}', str(tree))}export PYEGRESS_GUEST={series}\n"
            f"cd {shlex.quote(str(root))} && {command}\n"
        )
        status = guest.boot(
            series,
            script,
            qemu_opts=("-icount", "shift=0") if counts else (),
            cpus=1 if counts else 2,
            memory="3G",
            timeout_s=LIMIT_S,
            log=console_log,
        )
        if status:
            raise guest.BootError(
                f"bench.peers.{module} exited with {status}:\n{guest.log_tail(console_log)}"
            )
        return found.read_bytes()


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: MIT
"""How many records per second of CPU time go through the whole pipeline: filters, attribution, two outputs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import Table
from pyegress.inputs.ebpf import Ebpf, EbpfOptions
from pyegress.losses import Losses
from pyegress.outputs.json import Json, JsonOptions
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.pipeline import Pipeline
from pyegress.plugin import Context, Input
from pyegress.session import Settings

PER_RUN = 1024
RUNS = 5


class _Filled(Ebpf):
    """The input, with records in its ring when it has opened."""

    records = 0
    started = 0.0

    def fill(self) -> None:
        """Without traffic; what follows is timed."""
        for _ in range(self.records // PER_RUN):
            self._opened().synthesize(PER_RUN)
        self.started = time.process_time()

    def _make_settings(self, may_change: bool) -> Settings:
        return msgspec.structs.replace(super()._make_settings(may_change), synthesize=True)


def measure(quick: bool) -> Table:
    """Some runs, each of which ends when all records are written."""
    records = PER_RUN * (25 if quick else 100)
    # As a child of the first process: whoever started the benchmark isn't among the ancestors that are written.
    command = ["setsid", "--fork", sys.executable, "-m", "bench.whole", str(records)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    if len(said) != 3:
        raise RuntimeError("whole: the pipeline failed")
    spent_s, logfmt_bytes, json_bytes = float(said[0]), int(said[1]), int(said[2])
    return Table(
        f"Whole pipeline: 8 globs, attribution, two outputs; {records:,} records, median of {RUNS}",
        ("", "value"),
        [
            ("records/s of CPU time of all threads", f"{records / spent_s:,.0f}"),
            ("ns/record", f"{spent_s / records * 1e9:,.0f}"),
            ("bytes of a line of logfmt, of json", f"{logfmt_bytes // records:,}, {json_bytes // records:,}"),
        ],
    )


def _run(records: int) -> tuple[float, int, int]:
    """Seconds of CPU time, and the bytes written by both outputs."""
    options = EbpfOptions(
        attach="cgroup",
        ring=64 << 20,
        quiet=True,
        ignore_exe=("/opt/*/bin/*", "/srv/*"),
        ignore_cmdline=("*--quiet*", "* http://*.example.org/*"),
        ignore_parent=("cron*", "[ab]gent"),
        ignore_unit=("user@*.service", "backup-*.timer"),
    )
    source = _Filled(options)
    source.records = records
    losses = Losses()

    def opened(which: Input) -> None:
        source.fill()

    with tempfile.TemporaryDirectory(prefix="pyegress-bench-") as scratch:
        outputs = (
            Logfmt(LogfmtOptions(file=str(Path(scratch, "logfmt")))),
            Json(JsonOptions(file=str(Path(scratch, "json")))),
        )
        # Messages are about the kind of hooks, which make nothing here.
        context = Context(losses, lambda text: None, lambda text: None)
        pipeline = Pipeline((source,), outputs, context, limit=records, opened=opened)
        pipeline.run()
        spent_s = time.process_time() - source.started
        texts = [Path(scratch, name).read_bytes() for name in ("logfmt", "json")]
    for text in texts:
        if (written := text.count(b"\n")) != records:
            raise RuntimeError(f"whole: {written} of {records} records are written: {losses.lines()}")
    return spent_s, len(texts[0]), len(texts[1])


if __name__ == "__main__":
    runs = [_run(int(sys.argv[1])) for _ in range(RUNS)]
    print(statistics.median(spent_s for spent_s, _, _ in runs), *runs[0][1:])

# SPDX-License-Identifier: MIT
"""`pyegress run` on a host in trouble that only a guest may be in: no memory, a clock that is set, a fork bomb."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from pyegress.kernel import cgroup2_root
from tests import test_as_a_service as service
from tests import traffic
from tests.kernel.observing import in_cgroup
from tests.test_faults import is_there, objects
from tests.test_run_command import PATIENCE_S, PORT, ROOT, Audit, audit, config

pytestmark = [pytest.mark.guest("6.12"), pytest.mark.usefixtures("routes")]

HERE = "192.0.2.1"
ONLY = config(only_port=[PORT])
INSIDE = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"')
BOMB = "while (1) { defined(fork) or select(undef, undef, undef, 0.1) }"
BOMBS = 40
PROGRAMS = 20


@contextmanager
def controlled(name: str, **limits: int) -> Iterator[Path]:
    """A cgroup with these limits (`memory_max` is memory.max), in which nothing is left at the end."""
    root = cgroup2_root()
    assert root is not None
    controllers = root / "cgroup.subtree_control"
    controllers.write_text("+memory")
    try:
        with in_cgroup(name, root) as folder:
            for limit, value in limits.items():
                (folder / limit.replace("_", ".", 1)).write_text(str(value))
            try:
                yield folder
            finally:
                (folder / "cgroup.kill").write_text("1")
                while "populated 1" in (folder / "cgroup.events").read_text():
                    os.sched_yield()
    finally:
        controllers.write_text("-memory")


def send() -> int:
    """A program that sends one datagram and ends; its number."""
    with subprocess.Popen([traffic.short(), "udp", HERE, str(PORT)]) as program:
        assert program.wait(PATIENCE_S) == 0
        return program.pid


def await_records(run: Audit, count: int) -> list[dict[str, object]]:
    """That many, once they are written."""
    while run.log.read_text().count("\n") < count:
        assert run.process.poll() is None
        os.sched_yield()
    return [json.loads(line) for line in run.log.read_text().splitlines()]


def test_tables_that_memory_is_too_small_for() -> None:
    """The limit of a cgroup counts what the kernel holds for it."""
    words = (sys.executable, "-m", "pyegress", "run", "-I", "ebpf:attach:fentry", "-I", "ebpf:ring:1G")
    with controlled("small", memory_max=256 << 20) as cgroup:
        done = subprocess.run(
            [*INSIDE, cgroup, *words], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "out of memory for the kernel's tables; raise MemoryMax=" in done.stderr


def test_killed_for_want_of_memory_it_leaves_nothing(tmp_path: Path) -> None:
    """No link, program or table, where its limit becomes less than it has."""
    with (
        controlled("shrunk") as cgroup,
        service.running(*INSIDE, str(cgroup), *service.audit(tmp_path / "log")) as process,
    ):
        held = objects(process.pid)
        assert {kind for kind, _ in held} == {"prog", "map", "link"}
        (cgroup / "memory.max").write_text("0")
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        while any(is_there(*each) for each in held):
            os.sched_yield()


def test_clock_is_set(tmp_path: Path) -> None:
    """Connections have the time that the clock showed, be it set ahead or back."""
    assert os.environ["PYEGRESS_GUEST"], "the clock is the guest's"
    spans: list[tuple[int, int]] = []
    with audit(tmp_path, ONLY) as run:
        for ahead_s in (0, 86_400, -3 * 86_400):
            time.clock_settime(time.CLOCK_REALTIME, time.time() + ahead_s)
            before = time.time_ns()
            send()
            await_records(run, len(spans) + 1)
            spans.append((before, time.time_ns()))
        time.clock_settime(time.CLOCK_REALTIME, time.time() + 2 * 86_400)
        records = run.end()
    assert len(records) == len(spans)
    for record, (before, after) in zip(records, spans, strict=True):
        assert before - 1_000_000 <= nanoseconds(str(record["ts"])) <= after, (record["ts"], before, after)


def nanoseconds(text: str) -> int:
    """Of 2026-11-26T14:04:28.295769176Z."""
    whole, _, part = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 10**9 + int(part)


def test_beside_a_fork_bomb(tmp_path: Path) -> None:
    """Every program is known that connects meanwhile."""
    with audit(tmp_path, ONLY) as run, controlled("bomb") as cgroup:

        def processes() -> int:
            return len((cgroup / "cgroup.procs").read_text().split())

        line = [
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            "prlimit",
            f"--nproc={BOMBS}",
            "perl",
            "-e",
            BOMB,
        ]
        with subprocess.Popen([*INSIDE, cgroup, "nice", *line]) as bomb:
            while processes() < BOMBS // 2:
                assert bomb.poll() is None
                os.sched_yield()
            pids = [send() for _ in range(PROGRAMS)]
            await_records(run, PROGRAMS)
            assert processes() >= BOMBS // 2
            (cgroup / "cgroup.kill").write_text("1")
        records = run.end()
    found = [dict(record["process"]) for record in records]  # type: ignore[call-overload]
    assert [(each["pid"], each["exe"]) for each in found] == [(pid, str(traffic.short())) for pid in pids]

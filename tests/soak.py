# SPDX-License-Identifier: MIT
"""Much traffic for long while logs are rotated, the log server restarted, the config read again and the clock set.

`python -m tests.soak` does it on this kernel by cgroup hooks, `--guest 6.12` in a guest, where the clock is set too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests import guest, traffic
from tests.logserver import LogServer, program
from tests.test_as_a_service import LOGROTATE
from tests.test_run_command import ISOLATED, OTHER_PORT, PORT, ROOT, Audit, audit

HIDDEN_OF = 10
"""One datagram of so many goes to a port that is ignored."""
VOLLEY_S = 0.02
"""So long after another program began a new one sends what is due, and ends: 100,000 programs an hour, far more than
pyegress remembers."""
GROWTH = 1.1
"""Memory at the end, by that after a third of the time."""
ALLOWANCE_KB = 24 << 10
"""What memory may grow beyond that: the queue for the log server is empty or full, a batch is being made or not, and in
short runs programs are still new that are remembered."""
QUEUE = "8M"
PLAIN = "[inputs.ebpf]\nwindow = '0'\nquiet = true\n"
"""Of the audit beside it that only writes a log, whose memory is what the goal is set for."""
SENDER = f"""
import subprocess, sys, threading, time
volley, port, other, rate = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
sent = programs = 0
start = time.monotonic()
while not over.wait({VOLLEY_S}):
    count = min(int((time.monotonic() - start) * rate) - sent, rate // 10)  # what can't be managed is left
    if not count:
        continue
    subprocess.check_call([volley, str(sent), str(count), port, other, "{HIDDEN_OF}"])
    sent, programs = sent + count, programs + 1
print(sent, programs, time.monotonic() - start)
"""


class Soaked(NamedTuple):
    """What came of it."""

    shown: int
    """Datagrams that were to be reported; each is one, as `window` is 0."""
    hidden: int
    programs: int
    """That sent them, one after another."""
    seconds: float
    logged: int
    """Records in all log files."""
    delivered: int
    """Records that the log server has."""
    counts: dict[str, int]
    """What was said at the end, by stage and reason."""
    resident_kb: list[int]
    """Memory after each cycle."""
    plain_kb: list[int]
    """The same of an audit beside it that only writes a log; empty without one."""
    plain_counts: dict[str, int]
    """What that said at its end."""

    def counted(self, pattern: str) -> int:
        """Of all reasons that it matches."""
        return sum(count for text, count in self.counts.items() if re.search(pattern, text))

    def troubles(self) -> list[str]:
        """What doesn't hold."""
        found = []
        if not (self.shown and self.hidden):
            found.append("nothing was sent")
        kernel = self.counted("^lost: (?!output )")
        if (told := self.logged + kernel + self.counted("^lost: output json")) != self.shown:
            found.append(f"{self.shown} were sent, {told} logged or counted as lost")
        if (skipped := self.counted("^skipped: by ignore-port")) != self.hidden:
            found.append(f"{self.hidden} were sent to the ignored port, {skipped} counted")
        if (told := self.delivered + kernel + self.counted("^lost: output loki")) < self.shown:
            found.append(f"{self.shown} were sent, {told} delivered or counted as lost")
        for each in filter(None, (self.resident_kb, self.plain_kb)):
            early, last = each[len(each) // 3], each[-1]
            if last > early * GROWTH + ALLOWANCE_KB:
                found.append(f"memory grew from {early} to {last} KiB: {each}")
        return found


def soak(folder: Path, seconds: float, rate: int, cycles: int, kind: str, in_guest: bool) -> Soaked:
    """Send for that long; each cycle rotates, restarts, reloads and, in a guest, sets the clock.

    On the host, which is quicker, an audit as `PLAIN` says runs beside it.
    """
    rotation = folder / "logrotate.conf"
    rotation.write_text(rotating(folder))
    rotation.chmod(0o644)
    data = folder / "server"
    data.mkdir()
    resident: list[int] = []
    plain: list[int] = []
    with LogServer(data) as server, ExitStack() as stack:
        words = ["-I", f"ebpf:attach:{kind}", "-o", "loki", "-O", f"loki:url:{server.url}"]
        words += ["-O", f"loki:queue:{QUEUE}", "-O", "loki:flush-timeout:60s"]
        beside = None if in_guest else stack.enter_context(plainly(folder / "plain", kind))
        with audit(folder, config(0), *words) as run, sending(folder, rate) as sender:
            start = time.monotonic()
            for cycle in range(1, cycles + 1):
                rotate(rotation, folder, run)
                await_new(run)
                server.stop()
                run.reload(config(cycle), "ebpf: changed: ")
                server.start()
                if in_guest:
                    assert os.environ["PYEGRESS_GUEST"], "the clock is the guest's"
                    time.clock_settime(time.CLOCK_REALTIME, time.time() + (3600 if cycle % 2 else -3600))
                time.sleep(max(0.0, start + seconds * cycle / cycles - time.monotonic()))
                resident.append(resident_kb(run.process.pid))
                if beside:
                    plain.append(resident_kb(beside.process.pid))
                    os.truncate(beside.log, 0)
            said, _ = sender.communicate("", timeout=60)
            counts = ended(run)
        beside_counts = ended(beside) if beside else {}
        (row,) = server.select("* | stats count() n")
        delivered = int(row["n"])
    sent, programs, took = said.split()
    hidden = -(-int(sent) // HIDDEN_OF)
    shown = int(sent) - hidden
    return Soaked(
        shown=shown,
        hidden=hidden,
        programs=int(programs),
        seconds=float(took),
        logged=logged(folder),
        delivered=delivered,
        counts=counts,
        resident_kb=resident,
        plain_kb=plain,
        plain_counts=beside_counts,
    )


def plainly(folder: Path, kind: str) -> AbstractContextManager[Audit]:
    """The audit beside it."""
    folder.mkdir()
    return audit(folder, PLAIN, "-I", f"ebpf:attach:{kind}")


def config(cycle: int) -> str:
    """Filters that change, and all the while hide one port and show the other."""
    lines = ("[inputs.ebpf]", "window = '0'", "quiet = true", "[filters]")
    ignored = [f"192.0.2.{cycle % 250}"]
    return "\n".join(
        (
            *lines,
            f"only-port = {[PORT, OTHER_PORT]}",
            f"ignore-port = {[OTHER_PORT]}",
            f"ignore-cidr = {json.dumps(ignored)}",
        )
    )


@contextmanager
def sending(folder: Path, rate: int) -> Iterator[subprocess.Popen[str]]:
    """A program in a network of its own that has programs send until its input ends, and then says what it sent."""
    script = folder / "sender.py"  # a short command line: it is in every record
    script.write_text(SENDER)
    words = [*ISOLATED, sys.executable, str(script)]
    words += [str(traffic.volley()), str(PORT), str(OTHER_PORT), str(rate)]
    sender = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield sender
    finally:
        if sender.poll() is None:
            sender.kill()
            sender.communicate()


def rotating(folder: Path) -> str:
    """The shipped file for logrotate, for these logs and for as many as there will be."""
    shipped = LOGROTATE.read_text().replace("/var/log/pyegress/*.log", f"{folder}/log")
    return shipped.replace("rotate 14", "rotate 10000")


def rotate(rotation: Path, folder: Path, run: Audit) -> None:
    """As cron does; in place of systemctl there is a program that sends the signal."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    systemctl = programs / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nkill -HUP {run.process.pid}\n")
    systemctl.chmod(0o755)
    subprocess.run(
        ["logrotate", "--force", "--state", str(folder / "state"), str(rotation)],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        check=True,
        timeout=300,
    )


def await_new(run: Audit) -> None:
    """Return when the new log has something."""
    while not (run.log.exists() and run.log.stat().st_size):
        assert run.process.poll() is None
        os.sched_yield()


def logged(folder: Path) -> int:
    """Records in all logs."""
    return sum(
        (gzip.decompress(data) if path.suffix == ".gz" else data).count(b"\n")
        for path in (folder / "log", *folder.glob("log.*"))
        for data in (path.read_bytes(),)
    )


def ended(run: Audit) -> dict[str, int]:
    """What an audit says at its end, by stage and reason."""
    run.process.terminate()
    _, err = run.process.communicate(timeout=120)
    assert run.process.returncode == 0, err[-2000:]
    said = re.findall(r"^pyegress: (\w+): (\d+) (.*)$", err, re.MULTILINE)
    return {f"{stage}: {reason}": int(count) for stage, count, reason in said}


def resident_kb(pid: int) -> int:
    """Memory of a process."""
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found)


def main() -> int:
    """Tell what came of it; 1 where something doesn't hold, or where there can be no log server."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=int, default=10_000, help="datagrams a second; a guest may not manage")
    parser.add_argument("--every", type=float, default=60, help="seconds from one rotation to the next")
    parser.add_argument("--attach", default="cgroup", help="kind of hook")
    parser.add_argument("--guest", choices=guest.KERNELS, help="do it in a guest of this kernel")
    given = parser.parse_args()
    if given.guest and "PYEGRESS_GUEST" not in os.environ:
        return in_guest(given.guest, sys.argv[1:], given.seconds)
    try:
        program()
    except guest.Unavailable as error:
        print(f"soak: not done: {error}", file=sys.stderr)
        return 1
    cycles = max(3, round(given.seconds / given.every))
    with tempfile.TemporaryDirectory(prefix="pyegress-soak-") as folder:
        came = soak(Path(folder), given.seconds, given.rate, cycles, given.attach, bool(given.guest))
    sent = came.shown + came.hidden
    rate = f"{sent / came.seconds:,.0f} a second"
    print(f"{sent:,} sent by {came.programs:,} programs in {came.seconds:,.0f} s, {rate}")
    print(f"{came.logged:,} logged, {came.delivered:,} delivered")
    print(*(f"{count:,} {text}" for text, count in came.counts.items()), sep="\n")
    print(f"memory in KiB: {came.resident_kb}")
    print(f"memory in KiB of an audit beside it that only writes a log: {came.plain_kb}")
    print(*(f"{count:,} {text} (beside)" for text, count in came.plain_counts.items()), sep="\n")
    troubles = came.troubles()
    print(*troubles, sep="\n")
    return bool(troubles)


def in_guest(kernel: str, words: list[str], seconds: float) -> int:
    """The same there."""
    with tempfile.TemporaryDirectory(prefix="pyegress-soak-") as folder:
        log = Path(folder, "console.log")
        line = " ".join(words)
        script = (
            f"export PYEGRESS_GUEST={kernel} TMPDIR=/run/scratch PYTHONDONTWRITEBYTECODE=1\n"
            f"mkdir $TMPDIR; cd {ROOT}; {sys.executable} -m tests.soak {line}\n"
        )
        status = guest.boot(kernel, script, memory="2G", cpus=2, timeout_s=seconds * 1.5 + 600, log=log)
        print(guest.log_tail(log))
        return status


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: MIT
"""Inside the guest: each tool under each load; writes JSON for `bench.peers.__main__`.

The guest's clock counts instructions, so a time in ns here is a number of instructions.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.peers import LOADS, PORT, PROBE_PORT, TARGET, Load, Results, Row
from bench.peers.catalogue import AFTER_START, PEERS, STDOUT, Peer
from bench.peers.packages import version
from bench.peers.reading import Sought
from tests import traffic

OUT = Path("/run/peers/out")
READY_LIMIT_S = 60.0
"""Of the guest's time: a second is 10^9 instructions, or where it is idle a second."""
LOOK_S = 0.5
IDLE_S = 4
END_LIMIT_S = 20.0
NOTE_LENGTH = 160


class _Spent(NamedTuple):
    least: int
    median: int
    mean: int
    sent: int
    pid: int


def _send(load: Load, calls: int) -> _Spent:
    found = traffic.words(traffic.run("bench", load, TARGET, PORT, calls, timeout=600).stdout)
    clock = int(found["clock"])
    return _Spent(
        int(found["min"]) - clock,
        int(found["median"]) - clock,
        int(found["sum"]) // calls - clock,
        int(found["sent"]),
        int(found["pid"]),
    )


class Running:
    """A tool that was started, in a session of its own."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], out: Path) -> None:
        self._peer = peer
        self.process = process
        self.out = out
        self.record = out / peer.record

    def text(self) -> str:
        """What it recorded so far."""
        return self.record.read_text(errors="replace") if self.record.exists() else ""

    def said(self) -> str:
        """What it said last."""
        texts = [(self.out / name).read_text(errors="replace").strip() for name in ("stderr", STDOUT)]
        print(*texts, sep="\n", flush=True)
        last = next((text.splitlines()[-1] for text in texts if text), "nothing said")
        return re.sub(r"\x1b\[[0-9;]*m", "", last)

    def cpu(self) -> int:
        """Instructions that its processes, and the kernel's threads that work for it, took so far."""
        spent = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (folder / "stat").read_text().rpartition(") ")
                ours = int(rest.split()[3]) == self.process.pid
                if ours or name.partition("(")[2] in self._peer.kernel_threads:
                    for task in folder.glob("task/*/schedstat"):
                        spent += int(task.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
        return spent

    def ready(self, load: Load) -> str:
        """Send until it records what is sent; returns what is to be noted, or raises RuntimeError."""
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode}: {self.said()}")
            if self._peer.started and self._peer.started not in (self.out / STDOUT).read_text():
                time.sleep(LOOK_S)
                continue
            done = traffic.words(traffic.run(load, TARGET, PROBE_PORT).stdout)
            time.sleep(LOOK_S)
            if self._peer.read(self.text(), Sought(PROBE_PORT, frozenset((int(done["pid"]),)))).events:
                return ""
        return "records nothing of it"

    def rest(self, sent: int, pid: int) -> None:
        """Wait until it has recorded everything, or does nothing any more."""
        spent = self.cpu()
        while self._peer.read(self.text(), Sought(PORT, frozenset((pid,)))).events < sent:
            time.sleep(2 * LOOK_S)
            before, spent = spent, self.cpu()
            # A tool that looks around now and then is idle too.
            if spent - before < 20_000_000:
                return


@contextmanager
def started(peer: Peer, tree: Path) -> Iterator[Running]:
    out = OUT / peer.name.replace(" ", "-").replace("/", "-")
    subprocess.run(["rm", "-rf", out], check=True)
    out.mkdir(parents=True)

    def filled(text: str) -> str:
        return text.replace("{out}", str(out)).replace("{pypi}", str(tree / "pypi"))

    def run(commands: tuple[str, ...]) -> None:
        for command in commands:
            subprocess.run(["bash", "-c", filled(command)], check=True, stdout=subprocess.DEVNULL)

    for name, text in peer.files:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(filled(text))
    run(peer.setup)
    with (out / STDOUT).open("wb") as stdout, (out / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [filled(word) for word in peer.command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        if peer.name in AFTER_START:
            _after_start(AFTER_START[peer.name])
        yield Running(peer, process, out)
    finally:
        _end(process)
        run(peer.undo)


def _after_start(commands: tuple[str, ...]) -> None:
    """Commands that only a daemon that is up takes."""
    time.sleep(LOOK_S)
    for command in commands:
        subprocess.run(["bash", "-c", command], check=True, stdout=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _row(peer: Peer, name: str, load: Load, calls: int, bare: _Spent, tree: Path) -> Row:
    try:
        with started(peer, tree) as running:
            note = running.ready(load)
            before = running.cpu()
            time.sleep(IDLE_S)
            idle = (running.cpu() - before) // IDLE_S
            before = running.cpu()
            spent = _send(load, calls)
            running.rest(spent.sent, spent.pid)
            own = running.cpu() - before
        # Some write what is left when they end.
        seen = peer.read(running.text(), Sought(PORT, frozenset((spent.pid,))))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Row(peer=name, load=load, note=f"did not run: {error}"[:NOTE_LENGTH])
    return Row(
        peer=name,
        load=load,
        least=spent.least - bare.least,
        median=spent.median - bare.median,
        mean=spent.mean - bare.mean,
        own=own // spent.sent,
        idle=idle,
        sent=spent.sent,
        seen=seen.events,
        named=seen.named,
        names_processes=peer.names_processes,
        note="" if seen.events else note,
    )


def named(peer: Peer, tree: Path) -> str:
    """With its version, where that is known."""
    return f"{peer.name} {version(tree, peer.package)}".strip() if peer.package else peer.name


def measure(tree: Path, kernel: str, calls: int, part: str = "") -> Results:
    """Measure every tool whose name has that part."""
    bare = {load: _send(load, calls) for load in LOADS}
    rows = []
    for peer in PEERS:
        if part not in peer.name:
            continue
        name = named(peer, tree)
        if peer.why_not and not (peer.command and Path(peer.command[0]).exists()):
            rows.append(Row(peer=name, load=peer.loads[0], note=peer.why_not))
            continue
        for load in peer.loads:
            rows.append(_row(peer, name, load, calls, bare[load], tree))
            # For who keeps the console.
            print(rows[-1], flush=True)
    drift = max(abs(_send(load, calls).least - bare[load].least) for load in LOADS)
    return Results(
        kernel=kernel, calls=calls, bare={load: bare[load].least for load in LOADS}, drift=drift, rows=rows
    )


if __name__ == "__main__":
    found = measure(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))

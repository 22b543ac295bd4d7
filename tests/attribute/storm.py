# SPDX-License-Identifier: MIT
"""A storm of scenes, in which each socket is looked up while others come and go.

As a program: `SEED SCENES` prints what `main` gives, `stage SEED` plays the scenes that it is told.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from pyegress.attribute.lookup import Answer, Found, Lookup, Query
from pyegress.attribute.sockets import MAPPED
from tests.attribute.scenes import HOST, SCENES, Scene

KEPT = 40
"""So many scenes go on at a time."""
AGAIN = 10
"""So many of them are looked up again at each."""
PUSH = 64
"""Each so many scenes the numbers go round, in a pid namespace."""


class Seen(NamedTuple):
    """A packet, and who holds its sockets."""

    name: str
    query: Query
    holders: list[int]


class Stage:
    """Starts scenes, and ends the oldest."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._listener = socket.create_server((HOST, 0), backlog=4096)
        self._curtains: list[tuple[int, int]] = []

    def play(self, scene: Callable[[Scene], list[int]]) -> str:
        """The packet and its holders, when all is done."""
        reads, writes = os.pipe()
        curtain, holds = os.pipe()
        seed = self._chance.random()
        pid = os.fork()
        if pid == 0:
            try:
                for _, other in [*self._curtains, (0, holds)]:
                    os.close(other)
                made = Scene(self._listener.getsockname()[1], curtain, random.Random(seed))
                self._listener.close()
                holders = scene(made)
                os.write(writes, json.dumps([made.packet, holders]).encode() + b"\n")
                os.close(writes)
                made.wait()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writes)
        os.close(curtain)
        self._curtains.append((pid, holds))
        if len(self._curtains) > KEPT:
            old, holds = self._curtains.pop(0)
            os.close(holds)
            os.waitpid(old, 0)
        with os.fdopen(reads) as file:
            return file.readline()


@contextmanager
def churning() -> Iterator[None]:
    """Short processes and threads come and go."""
    with subprocess.Popen([sys.executable, "-m", "tests.attribute.storm", "churn"]) as process:
        try:
            yield
        finally:
            process.kill()


def churn() -> None:
    """As long as our parent lives."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    while os.getppid() == parent:
        if os.fork() == 0:
            os._exit(0)
        work = threading.Thread(target=int)
        work.start()
        work.join()


class Storm:
    """Counts what was found, and keeps what is wrong."""

    def __init__(self, lookup: Lookup, seed: int) -> None:
        self._lookup = lookup
        self._chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._going: list[Seen] = []
        self._done = threading.Event()

    def see(self, seen: Seen) -> None:
        """Look it up at once, and others again."""
        self.find(seen)
        (found,) = self._lookup.search([seen.query])
        self.judge("search", seen, found)
        if len(seen.holders) == 1 and not isinstance(found, Found):
            self.wrong.append(f"search: {seen} was not found: {found}")
        self._going = [*self._going[-KEPT + 2 :], seen]
        for other in self._chance.choices(self._going, k=AGAIN):
            self.find(other)

    def find(self, seen: Seen) -> None:
        """Quickly."""
        self.judge("find", seen, self._lookup.find(seen.query))

    def judge(self, how: str, seen: Seen, found: Answer | None) -> None:
        """Whether that may be said."""
        if found is None:
            self.counts[f"{how}: left open"] += 1
        elif not isinstance(found, Found):
            self.counts[f"{how}: {found.reason}"] += 1
        elif [found.process.pid] == seen.holders:
            self.counts[f"{how}: right"] += 1
        else:
            self.wrong.append(f"{how}: {seen} is not {found.process.pid}")

    def search_beside(self) -> None:
        """In another thread, for all at a time."""
        while not self._done.is_set():
            going = self._going
            for seen, found in zip(going, self._lookup.search([one.query for one in going]), strict=True):
                # Others may have ended meanwhile, one process after another.
                if seen in self._going:
                    self.judge("beside", seen, found)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """While this block runs."""
        thread = threading.Thread(target=self.search_beside)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()


def main(seed: int, scenes: int, push: bool = False) -> tuple[dict[str, int], list[str]]:
    """How often what was said, and what of it is wrong; `push`: let the numbers go round in this pid namespace."""
    chance = random.Random(seed)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "tests.attribute.storm", "stage", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as stage,
        closing(Lookup(lambda: True, lambda: None)) as lookup,
        churning(),
    ):
        assert stage.stdin and stage.stdout
        storm = Storm(lookup, seed)
        with storm.beside():
            for number in range(scenes):
                if push and number % PUSH == PUSH - 1:
                    top = int(Path("/proc/sys/kernel/pid_max").read_text())
                    Path("/proc/sys/kernel/ns_last_pid").write_text(str(top - PUSH))
                name = chance.choice(sorted(SCENES))
                stage.stdin.write(f"{name}\n")
                stage.stdin.flush()
                line = stage.stdout.readline()
                assert line.strip(), f"no scene {name}"
                packet, holders = json.loads(line)
                storm.see(Seen(name, query_of(packet), holders))
        stage.kill()
    return dict(sorted(storm.counts.items())), storm.wrong


def query_of(packet: str) -> Query:
    """As an input sees it."""
    protocol, sport, dport = map(int, packet.split())
    address = MAPPED + socket.inet_aton(HOST)
    return Query(4, protocol, address, address, sport, dport)


def run(what: str, number: int = 0, scenes: int = 0) -> None:
    """One of the programs."""
    if what == "churn":
        churn()
    elif what == "stage":
        stage = Stage(number)
        for line in sys.stdin:
            sys.stdout.write(stage.play(SCENES[line.strip()]))
            sys.stdout.flush()
    else:
        print(json.dumps(main(number, scenes, what == "push")))


if __name__ == "__main__":
    run(sys.argv[1], *map(int, sys.argv[2:]))

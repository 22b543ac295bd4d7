# SPDX-License-Identifier: MIT
"""A big plain file as shares that begin and end with lines, and what other processes make of them."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyegress.decode.stream import GZIP, ZSTD
from pyegress.errors import InputError
from pyegress.escape import display

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe
    from multiprocessing.context import ForkProcess

_LEAST_BYTES = 32 << 20
"""Of a share: less isn't worth a process."""
_MOST_SHARES = 2
"""Each takes some 100 MiB where there are many pairs, and only reading gets faster."""
_READ_BYTES = 64 << 10

Make = Callable[["Share"], Iterator[Any]]
"""What comes of a share; it may raise InputError."""


class Share:
    """Reads a part of a file as a stream does."""

    cut_short = False

    def __init__(self, fd: int, name: str, begin: int, end: int | None) -> None:
        """Without `end` as far as the file has grown when that is reached."""
        self._fd, self.name = fd, name
        self._at, self._end = begin, end
        self._first = os.getpid()

    def read_into(self, view: memoryview) -> int:
        """Put bytes to a view; how many, 0 at the end. BrokenPipeError where the first process has ended."""
        if self._first not in (os.getpid(), os.getppid()):
            raise BrokenPipeError
        if self._end is not None:
            view = view[: self._end - self._at]
        try:
            # Not read: the place in the file is the same for all processes.
            came = os.preadv(self._fd, [view], self._at)
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {error.strerror}") from error
        self._at += came
        return came


class Shares:
    """The shares of one file, in their order; none where it isn't worth it or can't be."""

    def __init__(self, path: str) -> None:
        self._name = display(path)
        self._fd = -1
        self._all: list[Share] = []
        self._workers: list[tuple[ForkProcess, Pipe]] = []
        # A process that is forked beside threads may wait forever for what one of them held.
        count = 0 if path == "-" or threading.active_count() > 1 else _processors()
        if count < 2:
            return
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            ends = _ends(self._fd, count)
        except OSError:
            return
        begins = [0, *ends]
        for begin, end in zip(begins, [*ends, None], strict=True):
            self._all.append(Share(self._fd, self._name, begin, end))

    @property
    def name(self) -> str:
        """How messages call the file."""
        return self._name

    @property
    def is_worth_it(self) -> bool:
        """Whether there are several."""
        return len(self._all) > 1

    @property
    def first_lines(self) -> list[bytes]:
        """Whole lines of the beginning."""
        return os.pread(self._fd, _READ_BYTES, 0).split(b"\n")[:-1]

    def start(self, make: Make) -> Share:
        """Let other processes make something of all but the share that is given back: the first, or all of the file."""
        # Ctrl-c comes to all of them: the first one ends the others, which never hear of it.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for share in self._all[1:]:
                self._start(make, share)
        except OSError:
            # This host has no room for another process.
            self._end_workers()
            return Share(self._fd, self._name, 0, None)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return self._all[0]

    def results(self) -> Iterator[Any]:
        """What was made of the others, in their order. Raises InputError, also where a process ended too early."""
        for worker, receiver in self._workers:
            while (made := self._received(worker, receiver)) is not None:
                yield made

    def close(self) -> None:
        """End the processes, whatever they do; may be called twice."""
        self._end_workers()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _start(self, make: Make, share: Share) -> None:
        # Here, because it is slow to import and few logs are big.
        import multiprocessing

        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        others = [receiver, *(pipe for _, pipe in self._workers)]
        worker = context.Process(target=_work, args=(make, share, sender, others), daemon=True)
        try:
            worker.start()
        except OSError:
            receiver.close()
            raise
        finally:
            sender.close()
        self._workers.append((worker, receiver))

    def _end_workers(self) -> None:
        for worker, receiver in self._workers:
            worker.kill()
            worker.join()
            receiver.close()
        self._workers.clear()

    def _received(self, worker: ForkProcess, receiver: Pipe) -> Any:
        try:
            made = receiver.recv()
        except (EOFError, OSError):
            worker.join()
            raise InputError(
                f"cannot read {self._name}: a process that read a part of it was ended ({_cause(worker.exitcode)}); "
                "run it again, with more memory if that ran out"
            ) from None
        if isinstance(made, InputError):
            raise made
        return made


def _work(make: Make, share: Share, sender: Pipe, others: list[Pipe]) -> None:
    """The life of a process."""
    # So that sending fails, and doesn't wait, once the first process has ended.
    for pipe in others:
        pipe.close()
    try:
        for made in make(share):
            sender.send(made)
        sender.send(None)
    except InputError as error:
        sender.send(error)
    except (BrokenPipeError, MemoryError):
        # What is asked for in vain is said by the first process.
        os._exit(1)


def _cause(exitcode: int | None) -> str:
    return f"exit status {exitcode}" if exitcode is None or exitcode >= 0 else f"signal {-exitcode}"


def _processors() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_SHARES)


def _ends(fd: int, count: int) -> list[int]:
    """Where shares end, but for the last; each is behind a line's end."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return []
    size = status.st_size
    count = min(count, size // _LEAST_BYTES)
    if count < 2 or os.pread(fd, len(ZSTD), 0).startswith((GZIP, ZSTD)):
        return []
    found: list[int] = []
    for number in range(1, count):
        at = size * number // count
        if found and at < found[-1]:
            continue
        while some := os.pread(fd, _READ_BYTES, at):
            newline = some.find(b"\n")
            if newline >= 0:
                found.append(at + newline + 1)
                break
            at += len(some)
    return found

# SPDX-License-Identifier: MIT
"""What an input and an output are. A plugin is one file with one options Struct and one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from pyegress.losses import Losses
from pyegress.record import Connection

Batch = Sequence[Connection]


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of every plugin's options: field = key, annotation = type, Meta = bounds and help."""


_Options = Options  # inside the classes below, `Options` is the class variable


class Context(msgspec.Struct, frozen=True):
    """What the program gives to a plugin when it opens it."""

    losses: Losses
    notice: Callable[[str], None]
    """Says one line to the user on stderr; the text must already be escaped."""
    debug: Callable[[str], None]
    progress: Callable[[int, int | None], None] = lambda done, total: None
    """Shows how much of something long is done, where that disturbs nothing; None: of unknown length.

    What outputs write at the end comes after all is done: whoever shows the first must show that too.
    """
    refresh: Callable[[], None] = lambda: None
    """Brings counters that the kernel keeps up to date in `losses`; from any thread."""
    queues: Callable[[], Mapping[str, int]] = dict
    """Records that wait for each output by its name; from any thread."""


class Input(ABC):
    """A source of connections. `open`, then `read` in one thread until it ends, then `close`.

    `stop` may be called from any thread and makes `read` end after it has drained what was observed.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[Options]]
    waits: bool = False
    """Nothing is lost while it waits, as with a file: a full output queue holds it up instead of losing records."""

    @abstractmethod
    def __init__(self, options: _Options) -> None: ...

    @abstractmethod
    def open(self, context: Context) -> None:
        """Start observing. Raises UnsupportedError or InputError with the cause and the way on."""

    @abstractmethod
    def read(self) -> Iterator[Batch]:
        """Batches of connections, and now and then an empty one so that the reader can look around."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Undo everything `open` did to the system; may be called twice."""

    def refresh_losses(self) -> None:
        """Bring counters that the kernel keeps up to date in the Losses."""


class Output(ABC):
    """A sink of connections, called from one thread of its own."""

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[Options]]
    writes_at_end: ClassVar[bool] = False
    """Nothing is written before `close`."""

    @abstractmethod
    def __init__(self, options: _Options) -> None: ...

    @abstractmethod
    def open(self, context: Context) -> None:
        """Raises OutputError if it can't work at all."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take a batch; raises OutputError, or BrokenPipeError when the reader has gone."""

    def flush(self) -> None:
        """Called when nothing more is waiting: make what was written visible."""

    def reopen(self) -> None:
        """SIGHUP: open files anew; on failure keep the old handle and raise OutputError."""

    def look(self) -> None:
        """SIGUSR1: where nothing is written before the end, write what it would be now."""

    @abstractmethod
    def close(self) -> None:
        """Write what is due at exit and let go; may be called twice."""

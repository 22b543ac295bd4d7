# SPDX-License-Identifier: MIT
"""What an input and an output are. A plugin is one file with one options Struct and one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import msgspec

from pyegress.losses import Losses
from pyegress.privileges import READING, Capability
from pyegress.record import Connection

Batch = Sequence[Connection]


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of every plugin's options: field = key, annotation = type, Meta = bounds and help."""


_Options = Options  # inside the classes below, `Options` is the class variable


class Painter(Protocol):
    """What draws on the whole terminal; both may be called from any thread."""

    def say(self, text: str) -> None:
        """Show a message, already escaped, as part of the picture; it must not wait."""

    def restore(self) -> None:
        """Leave the terminal as it was."""


class Context(msgspec.Struct, frozen=True):
    """What the program gives to a plugin when it opens it."""

    losses: Losses
    notice: Callable[[str], None]
    """Says one line to the user on stderr, who had better know; the text must already be escaped."""
    debug: Callable[[str], None]
    progress: Callable[[int, int | None], None] = lambda done, total: None
    """Shows how much of something long is done, where that disturbs nothing; None: of unknown length.

    What outputs write at the end comes after all is done: whoever shows the first must show that too.
    """
    refresh: Callable[[], None] = lambda: None
    """Brings counters that the kernel keeps up to date in `losses`; from any thread."""
    queues: Callable[[], Mapping[str, int]] = dict
    """Records that wait for each output by its name; from any thread."""
    inputs: Callable[[], Mapping[str, str]] = dict
    """Inputs that observe, by name, and the kind of hooks of each, or nothing; from any thread."""
    stop: Callable[[], None] = lambda: None
    """Ends the run as SIGTERM does; from any thread."""
    remark: Callable[[str], None] | None = None
    """As `notice`, for what is as it should be; see `tell`."""
    occupy: Callable[[Painter | None], None] = lambda painter: None
    """Has messages given to who draws on the terminal; None: restore it. The program does the same at its end."""
    may_change: bool = False
    """Filters may be changed while it runs: leave room for others."""
    waits: bool = False
    """All inputs do: an output that has no room waits for it, instead of losing what came."""
    replays: bool = False
    """All inputs do: times are those of earlier logs."""

    def tell(self, text: str) -> None:
        """Say one line on stderr about what is as it should be; the text must already be escaped."""
        (self.remark or self.notice)(text)


class Input(ABC):
    """A source of connections. `open`, then `read` in one thread until it ends, then `close`.

    `stop` may be called from any thread and makes `read` end after it has drained what was observed.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type[Options]]
    changeable: ClassVar[frozenset[str]] = frozenset()
    """Keys of the options that `change` can give other values."""
    waits: bool = False
    """Nothing is lost while it waits, as with a file: a full output queue holds it up instead of losing records."""
    replays: ClassVar[bool] = False
    """Its connections were observed earlier: nothing is looked up for them, as another may be what is found now."""
    hooks: str = ""
    """The kind of hooks that were chosen, once it is open."""
    capabilities: frozenset[Capability] = READING
    """What it needs of them once it is open; it has no others then. A thread that needs them starts after `open`."""
    shared: frozenset[Capability] = frozenset()
    """What `refresh_losses` and `change` need of them, in whatever thread."""

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

    def change(self, options: _Options) -> None:
        """Go on by these, which differ in `changeable` ones alone, and read what files they name; from any thread.

        It is said once it is so. Raises EgressError where it can't be; then everything is as it was.
        """

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
    draws: ClassVar[bool] = False
    """It needs the whole terminal."""
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    """What it needs of them; it has no others."""

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

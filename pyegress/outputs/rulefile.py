# SPDX-License-Identifier: MIT
"""What all outputs that make rules share: they gather, and write everything at exit and whenever they are asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import ClassVar

from pyegress.errors import OutputError
from pyegress.kernel import cgroup2_root
from pyegress.losses import Losses
from pyegress.outputs.filesink import FileSink, replace_file, writable_folder
from pyegress.plugin import Batch, Context, Output
from pyegress.rules.baseline import configured_servers
from pyegress.rules.model import Observations
from pyegress.rules.options import RuleOptions
from pyegress.rules.shape import Plan, plan


class RuleOutput(Output):
    """Keeps what each destination was used for; a file of rules is always a whole one."""

    writes_at_end: ClassVar[bool] = True
    endings: tuple[str, ...] = ("",)
    """What is appended to the file's name for each of the files."""

    def __init__(self, options: RuleOptions) -> None:
        self._options = options
        self._to_stdout = options.file in ("", "-")
        self._context: Context | None = None
        self._observations: Observations | None = None

    @abstractmethod
    def lines(self, made: Plan, ending: str) -> Iterable[str]:
        """The lines of one file, without their ends; lines that are empty stay empty."""

    def open(self, context: Context) -> None:
        if not self._to_stdout:
            # Better now than after weeks.
            writable_folder(self._options.file)
        self._context = context
        self._observations = Observations(self.name, context.losses)

    def write(self, batch: Batch) -> None:
        if self._observations is None:
            raise OutputError(f"{self.name}: not open")
        self._observations.add(batch)

    def look(self) -> None:
        if self._observations is not None:
            self._put(self._observations)

    def close(self) -> None:
        observations, self._observations = self._observations, None
        if observations is None or self._context is None:
            return
        if len(observations):
            self._put(observations)
        else:
            self._context.notice(f"{self.name}: no outbound connection was seen that a rule could allow")

    def write_logged(self, batches: Iterable[Batch], losses: Losses) -> bool:
        """Write the rules for what earlier logs hold; False where no rule comes of it."""
        if not self._to_stdout:
            writable_folder(self._options.file)
        observations = self._logged(batches, losses)
        if len(observations):
            self._put(observations)
        return bool(len(observations))

    def texts(self, batches: Iterable[Batch], losses: Losses) -> Iterator[tuple[str, str]]:
        """The ending and the text of each of those files, which are not written."""
        yield from self._texts(self._logged(batches, losses))

    def _logged(self, batches: Iterable[Batch], losses: Losses) -> Observations:
        observations = Observations(self.name, losses, live=False)
        for batch in batches:
            observations.add(batch)
        return observations

    def _texts(self, observations: Observations) -> Iterator[tuple[str, str]]:
        servers = configured_servers() if self._options.baseline else None
        made = plan(observations, self._options, servers)
        for ending in self.endings:
            yield ending, "".join(f"{line}\n" for line in self.lines(made, ending))

    def _put(self, observations: Observations) -> None:
        for ending, text in self._texts(observations):
            if self._to_stdout:
                FileSink("-").write(text.encode())
            else:
                replace_file(self._options.file + ending, text.encode())


def cgroup_presence() -> Callable[[str], bool]:
    """Tells whether a cgroup v2 of a path is there: firewalls refuse rules for others."""
    root = cgroup2_root()

    @cache
    def is_there(path: str) -> bool:
        return root is not None and (root / path).is_dir()

    return is_there

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
from pyegress.record import Repeats
from pyegress.rules import wording
from pyegress.rules.baseline import configured_servers
from pyegress.rules.model import Observations
from pyegress.rules.options import RuleOptions
from pyegress.rules.shape import Plan, plan

IsThere = Callable[[str], bool]
Notice = Callable[[str], None]
Logged = Iterable[Iterable[Repeats]]
"""What earlier logs hold."""


class RuleOutput(Output):
    """Keeps what each destination was used for; a file of rules is always a whole one."""

    writes_at_end: ClassVar[bool] = True
    endings: tuple[str, ...] = ("",)
    """What is appended to the file's name for each of the files."""

    def __init__(self, options: RuleOptions) -> None:
        self._options = options
        self._to_stdout = options.file in ("", "-")
        self._by_name = options.merge == "name"
        self._context: Context | None = None
        self._observations: Observations | None = None

    @abstractmethod
    def presence(self) -> IsThere:
        """What tells whether a unit's cgroup is there, where rules for others would be refused."""

    @abstractmethod
    def lines(self, made: Plan, ending: str) -> Iterable[str]:
        """The lines of one file, without their ends; lines that are empty stay empty."""

    def open(self, context: Context) -> None:
        if not self._to_stdout:
            # Better now than after weeks.
            writable_folder(self._options.file)
        self._context = context
        self._observations = Observations(
            self.name, context.losses, live=not context.replays, by_name=self._by_name
        )

    def write(self, batch: Batch) -> None:
        if self._observations is None:
            raise OutputError(f"{self.name}: not open")
        self._observations.add(batch)

    def look(self) -> None:
        if self._observations is not None and self._context is not None:
            self._put(self._planned(self._observations), self._context.notice)

    def close(self) -> None:
        observations, self._observations = self._observations, None
        if observations is None or self._context is None:
            return
        if len(observations):
            self._put(self._planned(observations), self._context.notice)
        else:
            self._context.notice(f"{self.name}: no outbound connection was seen that a rule could allow")

    def write_logged(self, logged: Logged, losses: Losses, keeps_losses: bool, notice: Notice) -> bool:
        """Write the rules for what earlier logs hold; False where no rule comes of it.

        `keeps_losses`: what the audits lost is in `losses` once all is read.
        """
        if not self._to_stdout:
            writable_folder(self._options.file)
        observations = self._logged(logged, losses, keeps_losses)
        if len(observations):
            self._put(self._planned(observations), notice)
        return bool(len(observations))

    def texts(
        self, logged: Logged, losses: Losses, keeps_losses: bool, notice: Notice
    ) -> Iterator[tuple[str, str]]:
        """The ending and the text of each of those files, which are not written."""
        yield from self._texts(self._planned(self._logged(logged, losses, keeps_losses)), notice)

    def _logged(self, logged: Logged, losses: Losses, keeps_losses: bool) -> Observations:
        observations = Observations(
            self.name, losses, live=False, keeps_losses=keeps_losses, by_name=self._by_name
        )
        for some in logged:
            observations.add_repeats(some)
        return observations

    def _planned(self, observations: Observations) -> Plan:
        servers = configured_servers() if self._options.baseline else None
        return plan(observations, self._options, servers)

    def _texts(self, made: Plan, notice: Notice) -> Iterator[tuple[str, str]]:
        for line in wording.left_out(made.rules, self.presence()):
            notice(f"{self.name}: {line}")
        for line in wording.name_cautions(made):
            notice(f"{self.name}: {line}")
        for ending in self.endings:
            yield ending, "".join(f"{line}\n" for line in self.lines(made, ending))

    def _put(self, made: Plan, notice: Notice) -> None:
        for ending, text in self._texts(made, notice):
            if self._to_stdout:
                FileSink("-").write(text.encode())
            else:
                replace_file(self._options.file + ending, text.encode())


def everywhere(path: str) -> bool:
    """For what is no firewall's: no cgroup has to be there."""
    return True


def cgroup_presence() -> IsThere:
    """Tells whether a cgroup v2 of a path is there: firewalls refuse rules for others."""
    root = cgroup2_root()

    @cache
    def is_there(path: str) -> bool:
        return root is not None and (root / path).is_dir()

    return is_there

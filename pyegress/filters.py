# SPDX-License-Identifier: MIT
"""Process filters: which processes' connections are hidden, and the part of it that a kernel can decide by itself.

Only what is certain hides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta

from pyegress.destinations import DestinationFilterOptions
from pyegress.escape import encoded
from pyegress.options import DurationNs
from pyegress.patterns import COMM_BYTES, KINDS, Test, is_glob, read, uid_of
from pyegress.plugin import Batch
from pyegress.prefixes import Verdict
from pyegress.record import Connection, Process

CACHED_PROCESSES = 4096
_Key = TypeVar("_Key", bytes, int)
_PLACE_KINDS = ("unit", "container")
"""What the cgroup alone decides."""
_USER_SPACE_KINDS = ("exe", "cmdline", "parent", "grandparent", "ancestor")


class RecordFilterOptions(DestinationFilterOptions, frozen=True, kw_only=True):
    """The filters of every input, by destination and by process."""

    ignore_comm: Annotated[
        tuple[str, ...], Meta(description="hide processes with this name, or matching this glob")
    ] = ()
    ignore_exe: Annotated[
        tuple[str, ...],
        Meta(description="hide processes whose program file has this whole path, or matches this glob"),
    ] = ()
    ignore_cmdline: Annotated[
        tuple[str, ...],
        Meta(description="hide processes whose command line has this text, or matches this glob as a whole"),
    ] = ()
    ignore_parent: Annotated[
        tuple[str, ...], Meta(description="hide processes whose parent has this name (exact or glob)")
    ] = ()
    ignore_grandparent: Annotated[
        tuple[str, ...], Meta(description="hide processes whose grandparent has this name (exact or glob)")
    ] = ()
    ignore_ancestor: Annotated[
        tuple[str, ...], Meta(description="hide processes with an ancestor of this name (exact or glob)")
    ] = ()
    ignore_user: Annotated[
        tuple[str, ...],
        Meta(description="hide processes of this user (exact name, number, or glob on the name)"),
    ] = ()
    ignore_unit: Annotated[
        tuple[str, ...],
        Meta(
            description="hide processes of this systemd unit (exact or glob; a user's: user@1000.service/NAME)"
        ),
    ] = ()
    ignore_container: Annotated[
        tuple[str, ...],
        Meta(
            description="hide processes in this container (name or id, exact or glob, or 12 digits or more)"
        ),
    ] = ()
    only_comm: Annotated[
        tuple[str, ...], Meta(description="hide processes without this name (exact or glob)")
    ] = ()
    only_exe: Annotated[
        tuple[str, ...],
        Meta(description="hide processes whose program file has another path (exact or glob)"),
    ] = ()
    only_cmdline: Annotated[
        tuple[str, ...],
        Meta(description="hide processes whose command line lacks this text, or doesn't match this glob"),
    ] = ()
    only_parent: Annotated[
        tuple[str, ...], Meta(description="hide processes without a parent of this name (exact or glob)")
    ] = ()
    only_grandparent: Annotated[
        tuple[str, ...], Meta(description="hide processes without a grandparent of this name (exact or glob)")
    ] = ()
    only_ancestor: Annotated[
        tuple[str, ...], Meta(description="hide processes without an ancestor of this name (exact or glob)")
    ] = ()
    only_user: Annotated[
        tuple[str, ...],
        Meta(description="hide processes of others (exact name, number, or glob on the name)"),
    ] = ()
    only_unit: Annotated[
        tuple[str, ...],
        Meta(
            description="hide processes outside this systemd unit, the system's or a user's (exact or glob)"
        ),
    ] = ()
    only_container: Annotated[
        tuple[str, ...],
        Meta(description="hide processes outside this container (as ignore-container names it)"),
    ] = ()


class FilterOptions(RecordFilterOptions, frozen=True, kw_only=True):
    """The filters of inputs that observe, and how often they report the rest; an input's own options inherit them."""

    quiet: Annotated[bool, Meta(description="no line per connection on stderr when outputs are named")] = (
        False
    )
    window: Annotated[
        DurationNs,
        Meta(
            description="a flow of UDP (or of packets other than TCP) is reported at most once in this time; 0: each"
        ),
    ] = 10_000_000_000
    flows: Annotated[int, Meta(description="such flows remembered at a time", ge=1, le=1 << 22)] = 32768
    names: Annotated[
        str,
        Meta(
            description="where names of destinations come from, separated by commas: dns (answers that pass), sni (TLS "
            "and QUIC), hosts (/etc/hosts), ptr (asks DNS itself); auto: hosts, and dns where the kernel's tap works; "
            "or none",
            pattern=r"^(auto|none|(dns|sni|hosts|ptr)(,(dns|sni|hosts|ptr))*)$",
        ),
    ] = "auto"


class KernelRules(NamedTuple):
    """What a kernel can decide from the name, the uid and the kernel flag that each event has.

    It hides by an ignoring verdict; and by an `outside` rule where its table has no wanting verdict, for
    `outside_comm` not kernel threads, whose name in user space is only a part of their comm. It must hide nothing
    that `judge` keeps, but may keep what `judge` hides, since all that it passes is judged: so a name is here only
    where it is equal to the comm whatever the full name is, `kworker` hides `kworker/3:1` in user space alone, and a
    name that may be the cut one of several leaves `outside_comm` to user space.
    """

    comms: dict[bytes, Verdict]
    """By comm, NULs up to 16 bytes."""
    uids: dict[int, Verdict]
    outside_comm: int | None
    """Number of the rule; None where there is none, or the kernel can't decide it."""
    outside_uid: int | None


class _Rule(NamedTuple):
    number: int
    pattern: str
    test: Test


class ProcessFilters:
    """Hides connections by their process: by any ignore-rule, or where a kind of only-rules has none that may match.

    An unknown process is never hidden. For one thread. Raises UsageError for a pattern that can't be.
    """

    def __init__(self, options: RecordFilterOptions) -> None:
        labels: list[str] = []
        ignore = _rules("ignore", options, labels)
        only = _rules("only", options, labels)
        outside: dict[str, int] = {}
        for kind, rules in only.items():
            if rules:
                outside[kind] = len(labels)
                labels.append(f"outside only-{kind}")
        self.labels: tuple[str, ...] = tuple(labels)
        """By rule number."""
        self.hits: list[int] = [0] * len(labels)
        """By rule number, how many connections and datagrams it is the first to hide; 0 for an only-rule."""
        self._ignore = [(rule.number, rule.test) for rules in ignore.values() for rule in rules]
        self._outside = [(number, [rule.test for rule in only[kind]]) for kind, number in outside.items()]
        self._ignore_place = [(rule.number, rule.test) for kind in _PLACE_KINDS for rule in ignore[kind]]
        self._outside_place = [
            (number, [rule.test for rule in only[kind]])
            for kind, number in outside.items()
            if kind in _PLACE_KINDS
        ]
        self.kernel = KernelRules(
            comms=_verdicts(_keyed(_comm_key, ignore["comm"]), _keyed(_comm_key, only["comm"])),
            uids=_verdicts(_keyed(uid_of, ignore["user"]), _keyed(uid_of, only["user"])),
            outside_comm=outside.get("comm") if all(map(_is_never_cut, only["comm"])) else None,
            outside_uid=outside.get("user") if _has_all(uid_of, only["user"]) else None,
        )
        self.needs_verdicts: bool = (
            any(ignore[kind] or only[kind] for kind in _USER_SPACE_KINDS)
            or not _has_all(_comm_key, ignore["comm"])
            or not _has_all(uid_of, ignore["user"])
            or self.kernel.outside_comm != outside.get("comm")
            or self.kernel.outside_uid != outside.get("user")
        )
        """A rule is left that neither the kernel's tables nor a cgroup decide: tell the kernel of hidden programs."""
        self.has_place_rules: bool = bool(self._ignore_place or self._outside_place)
        """Some rule looks at the cgroup: tell the kernel of hidden ones."""
        # By id, because hashing a Process hashes all its parents; the reference keeps the id taken.
        self._judged: dict[int, tuple[Process, int | None]] = {}

    def judge(self, process: Process | None) -> int | None:
        """Number of the rule that hides what this process does; None where it is to be reported."""
        if process is None or not self.labels:
            return None
        known = self._judged.get(id(process))
        if known is not None:
            return known[1]
        hidden_by = _hidden_by(process, self._ignore, self._outside)
        if len(self._judged) >= CACHED_PROCESSES:
            self._judged.clear()
        self._judged[id(process)] = (process, hidden_by)
        return hidden_by

    def judge_place(self, process: Process) -> int | None:
        """Number of the rule that hides all processes in this one's cgroup, whatever else they are."""
        return _hidden_by(process, self._ignore_place, self._outside_place)

    def counts(self) -> Counter[str]:
        """Hits by label."""
        found: Counter[str] = Counter()
        for label, count in zip(self.labels, self.hits, strict=True):
            found[label] += count
        return found

    def keep(self, connection: Connection) -> bool:
        """Whether the connection is to be reported."""
        return bool(self.apply((connection,)))

    def apply(self, batch: Batch) -> Batch:
        """The connections to report, in order; the same object where none is hidden."""
        if not self.labels:
            return batch
        judge, hits = self.judge, self.hits
        kept: list[Connection] = []
        for connection in batch:
            hidden_by = judge(connection.process)
            if hidden_by is None:
                kept.append(connection)
            else:
                hits[hidden_by] += connection.count
        return batch if len(kept) == len(batch) else kept


def _rules(what: str, options: RecordFilterOptions, labels: list[str]) -> dict[str, list[_Rule]]:
    """The rules of each kind in the order of the options; each takes the next number with its label."""
    found: dict[str, list[_Rule]] = {}
    for kind in KINDS:
        option = f"{what}-{kind}"
        found[kind] = []
        for given in getattr(options, f"{what}_{kind}"):
            pattern, test = read(option, kind, given)
            found[kind].append(_Rule(len(labels), pattern, test))
            labels.append(f"{option}:{pattern}")
    return found


def _hidden_by(
    process: Process, ignore: Sequence[tuple[int, Test]], outside: Sequence[tuple[int, Sequence[Test]]]
) -> int | None:
    for number, test in ignore:
        if test(process):
            return number
    for number, tests in outside:
        if all(test(process) is False for test in tests):
            return number
    return None


def _keyed(key: Callable[[str], _Key | None], rules: Sequence[_Rule]) -> list[tuple[_Key, int]]:
    """Keys and numbers of those rules that have a key."""
    return [(found, rule.number) for rule in rules if (found := key(rule.pattern)) is not None]


def _has_all(key: Callable[[str], _Key | None], rules: Sequence[_Rule]) -> bool:
    return len(_keyed(key, rules)) == len(rules)


def _verdicts(ignore: Sequence[tuple[_Key, int]], only: Sequence[tuple[_Key, int]]) -> dict[_Key, Verdict]:
    found: dict[_Key, Verdict] = {}
    # The first rule of a key decides, ignore before only: so later ones must not overwrite.
    for key, number in only:
        found.setdefault(key, Verdict(number, False, True))
    for key, number in reversed(ignore):
        found[key] = Verdict(number, True, key in found and found[key].only)
    return found


def _comm_key(pattern: str) -> bytes | None:
    raw = encoded(pattern)
    return None if is_glob(pattern) or len(raw) > COMM_BYTES else raw.ljust(COMM_BYTES + 1, b"\0")


def _is_never_cut(rule: _Rule) -> bool:
    return not is_glob(rule.pattern) and len(encoded(rule.pattern)) < COMM_BYTES

# SPDX-License-Identifier: MIT
"""Process filters: which processes' connections are hidden, and the part of it that a kernel can decide by itself.

A rule's test of a process says True, False, or None where what it looks at is not known; only what is certain hides.
"""

from __future__ import annotations

import fnmatch
import pwd
import re
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta

from pyegress.errors import UsageError
from pyegress.escape import display, encoded
from pyegress.plugin import Batch, Options
from pyegress.prefixes import Verdict
from pyegress.record import Connection, Process

CACHED_PROCESSES = 16384
_COMM_BYTES = 15
_UID_MAX = 0xFFFFFFFE
_ID_START = re.compile(r"[0-9a-f]{12,}")
_Test = Callable[[Process], bool | None]
_Key = TypeVar("_Key", bytes, int)


class ProcessFilterOptions(Options, frozen=True, kw_only=True):
    """The process filters of every input; an input's own options inherit them."""

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
    test: _Test


class ProcessFilters:
    """Hides connections by their process: by any ignore-rule, or where a kind of only-rules has none that may match.

    An unknown process is never hidden. For one thread. Raises UsageError for a pattern that can't be.
    """

    def __init__(self, options: ProcessFilterOptions) -> None:
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
            uids=_verdicts(_keyed(_uid_key, ignore["user"]), _keyed(_uid_key, only["user"])),
            outside_comm=outside.get("comm") if all(map(_is_never_cut, only["comm"])) else None,
            outside_uid=outside.get("user") if _has_all(_uid_key, only["user"]) else None,
        )
        self.needs_verdicts: bool = (
            any(ignore[kind] or only[kind] for kind in _USER_SPACE_KINDS)
            or not _has_all(_comm_key, ignore["comm"])
            or not _has_all(_uid_key, ignore["user"])
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


def _rules(what: str, options: ProcessFilterOptions, labels: list[str]) -> dict[str, list[_Rule]]:
    """The rules of each kind in the order of the options; each takes the next number with its label."""
    found: dict[str, list[_Rule]] = {}
    for kind, make_test in _KINDS.items():
        option = f"{what}-{kind}"
        patterns: tuple[str, ...] = getattr(options, f"{what}_{kind}")
        found[kind] = []
        for given in patterns:
            if not given:
                raise UsageError(f"{option}: the pattern must not be empty")
            # An ASCII locale reads UTF-8 as surrogates; a process's text never has it so.
            pattern = encoded(given).decode("utf-8", "surrogateescape")
            try:
                test = make_test(pattern)
            except LookupError as error:
                raise UsageError(f"{option}: {display(pattern)}: {error.args[0]}") from None
            found[kind].append(_Rule(len(labels), pattern, test))
            labels.append(f"{option}:{pattern}")
    return found


def _hidden_by(
    process: Process, ignore: Sequence[tuple[int, _Test]], outside: Sequence[tuple[int, Sequence[_Test]]]
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
    return None if _is_glob(pattern) or len(raw) > _COMM_BYTES else raw.ljust(_COMM_BYTES + 1, b"\0")


def _is_never_cut(rule: _Rule) -> bool:
    return not _is_glob(rule.pattern) and len(encoded(rule.pattern)) < _COMM_BYTES


def _uid_key(pattern: str) -> int | None:
    """The uid of a name or number; None for a glob. LookupError says why there is none."""
    if _is_glob(pattern):
        return None
    if digits := re.fullmatch("0*([0-9]{1,10})", pattern):
        if int(digits[1]) > _UID_MAX:
            raise LookupError(f"no such user; a number is at most {_UID_MAX}")
        return int(digits[1])
    try:
        return pwd.getpwnam(pattern).pw_uid
    except (KeyError, ValueError):  # ValueError: no name can have such characters
        raise LookupError("no such user; give its number") from None


def _name_test(pattern: str) -> _Test:
    matches = _matcher(pattern)
    raw = None if _is_glob(pattern) else encoded(pattern)

    def test(process: Process) -> bool | None:
        names = [name for name in (process.name, process.comm) if name is not None]
        if any(map(matches, names)):
            return True
        if not names:
            return None
        cut = _unresolved(process)
        return None if cut and (raw is None or raw.startswith(cut)) else False

    return test


def _unresolved(process: Process) -> bytes | None:
    """The comm where it may be the cut beginning of a name that nothing told: the resolver lacked exe or arguments."""
    comm = process.comm
    if (
        comm is None
        or process.kernel
        or process.name not in (None, comm)
        or (process.exe and process.cmdline)
    ):
        return None
    raw = encoded(comm)
    return raw if len(raw) >= _COMM_BYTES else None


def _exe_test(pattern: str) -> _Test:
    matches = _matcher(pattern)

    def test(process: Process) -> bool | None:
        if process.exe is None:
            return False if process.kernel else None
        return matches(process.exe)

    return test


def _cmdline_test(pattern: str) -> _Test:
    glob = _matcher(pattern) if _is_glob(pattern) else None

    def test(process: Process) -> bool | None:
        if not process.cmdline:
            return False if process.kernel else None
        if glob is None:
            return pattern in process.cmdline or (None if process.cmdline_cut else False)
        if process.cmdline_cut:
            # What was cut off matters to the glob, unless its end takes anything.
            return True if pattern.endswith("*") and glob(process.cmdline) else None
        return glob(process.cmdline)

    return test


def _parent_test(pattern: str) -> _Test:
    return _above(_name_test(pattern))


def _grandparent_test(pattern: str) -> _Test:
    return _above(_above(_name_test(pattern)))


def _above(test_parent: _Test) -> _Test:
    def test(process: Process) -> bool | None:
        if process.parent is None:
            return False if _has_no_parent(process) else None
        return test_parent(process.parent)

    return test


def _ancestor_test(pattern: str) -> _Test:
    test_name = _name_test(pattern)

    def test(process: Process) -> bool | None:
        certain = True
        while process.parent is not None:
            process = process.parent
            found = test_name(process)
            if found:
                return True
            certain = certain and found is False
        return False if certain and _has_no_parent(process) else None

    return test


def _has_no_parent(process: Process) -> bool:
    """It has no parent: init, or kthreadd, whose number is another program's in a pid namespace."""
    return process.pid <= 1 or (process.pid == 2 and process.kernel)


def _user_test(pattern: str) -> _Test:
    uid = _uid_key(pattern)
    matches = _matcher(pattern)

    def test(process: Process) -> bool | None:
        # The number decides: two names may have one, and the kernel knows only numbers.
        if uid is not None and process.uid is not None:
            return process.uid == uid
        if process.user is None:
            return None
        # A name alone does not tell the number.
        return matches(process.user) or (None if pattern.isdecimal() else False)

    return test


def _unit_test(pattern: str) -> _Test:
    """A user names units at will: those of a user's systemd match only behind the unit of that."""
    matches = _matcher(pattern)

    def test(process: Process) -> bool | None:
        if process.unit is None:
            return None if process.cgroup is None else False
        return matches(process.unit) or (
            process.user_unit is not None and matches(f"{process.unit}/{process.user_unit}")
        )

    return test


def _container_test(pattern: str) -> _Test:
    matches = _matcher(pattern)
    is_id = _ID_START.fullmatch(pattern) is not None

    def test(process: Process) -> bool | None:
        container, name = process.container, process.container_name
        if name is not None and matches(name):
            return True
        if container is None:
            return None if process.cgroup is None and name is None else False
        if matches(container):
            return True
        if is_id:
            return container.startswith(pattern) and _ID_START.fullmatch(container) is not None
        # It may have this name: not every engine's names can be read.
        return None if name is None else False

    return test


_KINDS: dict[str, Callable[[str], _Test]] = {
    "comm": _name_test,
    "exe": _exe_test,
    "cmdline": _cmdline_test,
    "parent": _parent_test,
    "grandparent": _grandparent_test,
    "ancestor": _ancestor_test,
    "user": _user_test,
    "unit": _unit_test,
    "container": _container_test,
}
_PLACE_KINDS = ("unit", "container")
"""What the cgroup alone decides."""
_USER_SPACE_KINDS = ("exe", "cmdline", "parent", "grandparent", "ancestor")


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a whole text is the pattern or matches its glob."""
    if not _is_glob(pattern):
        return pattern.__eq__
    # fnmatch.fnmatchcase caches only 256 patterns; translate is the same glob with `*` crossing newlines.
    compiled = re.compile(fnmatch.translate(pattern))
    return lambda text: compiled.match(text) is not None

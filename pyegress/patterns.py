# SPDX-License-Identifier: MIT
"""Patterns of processes: what `ignore-`, `only-` and `allow-` options match, by one set of rules.

A pattern's test of a process says True, False, or None where what it looks at is not known; only what is certain
counts.
"""

from __future__ import annotations

import fnmatch
import pwd
import re
from collections.abc import Callable

from pyegress.errors import UsageError
from pyegress.escape import display, encoded
from pyegress.record import Process

COMM_BYTES = 15
_UID_MAX = 0xFFFFFFFE
_ID_START = re.compile(r"[0-9a-f]{12,}")
Test = Callable[[Process], bool | None]


def read(option: str, kind: str, given: str) -> tuple[str, Test]:
    """A pattern as a process's text is decoded, and its test; UsageError where it can't be."""
    if not given:
        raise UsageError(f"{option}: the pattern must not be empty")
    # An ASCII locale reads UTF-8 as surrogates; a process's text never has it so.
    pattern = encoded(given).decode("utf-8", "surrogateescape")
    try:
        return pattern, KINDS[kind](pattern)
    except LookupError as error:
        raise UsageError(f"{option}: {display(pattern)}: {error.args[0]}") from None


def is_glob(pattern: str) -> bool:
    """Whether a pattern is one, not a plain name."""
    return any(sign in pattern for sign in "*?[")


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a whole text is the pattern or matches its glob."""
    if not is_glob(pattern):
        return pattern.__eq__
    # fnmatch.fnmatchcase caches only 256 patterns; translate is the same glob with `*` crossing newlines.
    compiled = re.compile(fnmatch.translate(pattern))
    return lambda text: compiled.match(text) is not None


def uid_of(pattern: str) -> int | None:
    """The uid of a name or number; None for a glob. LookupError says why there is none."""
    if is_glob(pattern):
        return None
    if digits := re.fullmatch("0*([0-9]{1,10})", pattern):
        if int(digits[1]) > _UID_MAX:
            raise LookupError(f"no such user; a number is at most {_UID_MAX}")
        return int(digits[1])
    try:
        return pwd.getpwnam(pattern).pw_uid
    except (KeyError, ValueError):  # ValueError: no name can have such characters
        raise LookupError("no such user; give its number") from None


def _name_test(pattern: str) -> Test:
    matches = matcher(pattern)
    raw = None if is_glob(pattern) else encoded(pattern)

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
    return raw if len(raw) >= COMM_BYTES else None


def _exe_test(pattern: str) -> Test:
    matches = matcher(pattern)

    def test(process: Process) -> bool | None:
        if process.exe is None:
            return False if process.kernel else None
        return matches(process.exe)

    return test


def _cmdline_test(pattern: str) -> Test:
    glob = matcher(pattern) if is_glob(pattern) else None

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


def _parent_test(pattern: str) -> Test:
    return _above(_name_test(pattern))


def _grandparent_test(pattern: str) -> Test:
    return _above(_above(_name_test(pattern)))


def _above(test_parent: Test) -> Test:
    def test(process: Process) -> bool | None:
        if process.parent is None:
            return False if _has_no_parent(process) else None
        return test_parent(process.parent)

    return test


def _ancestor_test(pattern: str) -> Test:
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
    return process.pid is not None and (process.pid <= 1 or (process.pid == 2 and process.kernel))


def _user_test(pattern: str) -> Test:
    uid = uid_of(pattern)
    matches = matcher(pattern)

    def test(process: Process) -> bool | None:
        # The number decides: two names may have one, and the kernel knows only numbers.
        if uid is not None and process.uid is not None:
            return process.uid == uid
        if process.user is None:
            return None
        # A name alone does not tell the number.
        return matches(process.user) or (None if pattern.isdecimal() else False)

    return test


def _unit_test(pattern: str) -> Test:
    """A user names units at will: those of a user's systemd match only behind the unit of that."""
    matches = matcher(pattern)

    def test(process: Process) -> bool | None:
        if process.unit is None:
            return None if process.cgroup is None else False
        return matches(process.unit) or (
            process.user_unit is not None and matches(f"{process.unit}/{process.user_unit}")
        )

    return test


def _container_test(pattern: str) -> Test:
    matches = matcher(pattern)
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


KINDS: dict[str, Callable[[str], Test]] = {
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

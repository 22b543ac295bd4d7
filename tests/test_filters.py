# SPDX-License-Identifier: MIT
"""Process filters: what a pattern hides."""

import pytest

from pyegress import filters
from pyegress.errors import UsageError
from pyegress.filters import ProcessFilters
from pyegress.record import Connection, Process

GRANDPARENT = Process(pid=1, comm="systemd", name="systemd")
PARENT = Process(pid=2, comm="bash", name="bash", cmdline="bash -l", parent=GRANDPARENT)
LONG = Process(pid=3, comm="averyverylongna", name="averyverylongname", cmdline="x --u=a/b\nc", parent=PARENT)


def connection(process: Process | None) -> Connection:
    """A connection of a process."""
    return Connection(
        ts=0, hook="ebpf", protocol="tcp", ip_version=4, dest_ip="192.0.2.1", dest_port=443, process=process
    )


@pytest.mark.parametrize(
    ("option", "pattern", "hidden"),
    [
        ("ignore_comm", "averyverylongname", True),
        ("ignore_comm", "averyverylongna", True),
        ("ignore_comm", "averyverylong", False),
        ("ignore_comm", "very", False),
        ("ignore_comm", "a*name", True),
        ("ignore_comm", "A*", False),
        ("ignore_comm", "[!a]*", False),
        ("ignore_comm", "[!b]*", True),
        ("ignore_comm", "bash", False),
        ("ignore_cmdline", "--u", True),
        ("ignore_cmdline", "a/b\nc", True),
        ("ignore_cmdline", "--U", False),
        ("ignore_cmdline", "x*c", True),
        ("ignore_cmdline", "x*b", False),
        ("ignore_cmdline", "--u*", False),
        ("ignore_cmdline", "x --u=a?b?c", True),
        ("ignore_parent", "bash", True),
        ("ignore_parent", "ba?h", True),
        ("ignore_parent", "systemd", False),
        ("ignore_grandparent", "sys*", True),
        ("ignore_grandparent", "bash", False),
    ],
)
def test_pattern(option: str, pattern: str, hidden: bool) -> None:
    """Names match whole; command lines by part or as an anchored glob that crosses / and newline."""
    chosen = ProcessFilters(**{option: [pattern]})
    assert chosen.keep(connection(LONG)) is not hidden
    assert chosen.hits == {f"{option.replace('_', '-')}:{pattern}": int(hidden)}


def test_unknown_is_kept() -> None:
    """No process, no command line, no parent: nothing to match, so it is reported."""
    chosen = ProcessFilters(["*"], ["*"], ["*"], ["*"])
    assert chosen.keep(connection(None))
    assert chosen.keep(connection(Process(pid=9)))


def test_patterns_are_ored_and_the_first_counts() -> None:
    """The hits add up to the connections that were hidden."""
    chosen = ProcessFilters(ignore_comm=["nc", "bash"], ignore_parent=["systemd"])
    batch = [connection(PARENT), connection(LONG), connection(PARENT)]
    assert chosen.apply(batch) == [batch[1]]
    assert chosen.hits == {"ignore-comm:nc": 0, "ignore-comm:bash": 2, "ignore-parent:systemd": 0}


def test_same_batch_where_nothing_is_hidden() -> None:
    """No copy is made of what passes."""
    batch = [connection(PARENT)]
    assert ProcessFilters().apply(batch) is batch
    assert ProcessFilters(["nc"]).apply(batch) is batch


def test_verdicts_are_right_when_the_cache_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short-lived processes that reuse an address in memory don't inherit a verdict."""
    monkeypatch.setattr(filters, "CACHED_PROCESSES", 4)
    chosen = ProcessFilters(["odd"])
    for number in range(1000):
        name = "odd" if number % 2 else "even"
        assert chosen.keep(connection(Process(pid=number, comm=name, name=name))) is (name == "even")
    assert chosen.hits == {"ignore-comm:odd": 500}


def test_empty_pattern_is_an_error() -> None:
    """An empty pattern would hide every command line."""
    with pytest.raises(UsageError, match="^ignore-cmdline: the pattern must not be empty$"):
        ProcessFilters(ignore_cmdline=[""])

# SPDX-License-Identifier: MIT
"""What the kernel told of programs -> the Process of each."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from pyegress.attribute.processes import ProcessTable
from pyegress.record import CgroupPath, Details, Identity, Seen

PROGRAMS = 1000
INIT, SHELL = Identity(1, 1, 1), Identity(2048, 2, 1)
CGROUP = 9000


def _seen(identity: Identity, comm: str, cgroup_id: int) -> Seen:
    return Seen(identity, comm, 1000, 1000, cgroup_id, False)


def _details(seen: Seen, parent: Identity | None, args: bytes | None) -> Details:
    return Details(
        seen,
        parent,
        seen.identity.tgid,
        f"/usr/bin/{seen.comm}",
        args,
        False,
        False,
        1,
        2048,
        "bash",
        None,
        1,
        2,
    )


TOLD: list[Details | CgroupPath] = [
    CgroupPath(CGROUP, "/system.slice/deploy.service"),
    _details(_seen(INIT, "systemd", 0), None, None),
    _details(_seen(SHELL, "bash", 0), INIT, None),
    *(
        _details(
            _seen(Identity(30_000 + number, number, 1), "curl", CGROUP),
            SHELL,
            b"curl\0https://example.net/\0",
        )
        for number in range(PROGRAMS)
    ),
]
SEEN = [told.seen for told in TOLD if isinstance(told, Details)][2:]


def _table() -> ProcessTable:
    return ProcessTable(lambda identity: None, lambda number: None, lambda: None)


def test_details_kept(benchmark: BenchmarkFixture) -> None:
    def add() -> ProcessTable:
        table = _table()
        for told in TOLD:
            table.add(told)
        return table

    benchmark(add)


def test_programs_resolved(benchmark: BenchmarkFixture) -> None:
    table = _table()
    for told in TOLD:
        table.add(told)
    found = benchmark(lambda: [table.resolve(seen) for seen in SEEN])
    assert {process.unit for process in found} == {"deploy.service"}
    assert {process.attribution for process in found} == {"kernel"}

# SPDX-License-Identifier: MIT
"""Earlier logs come as they were logged, filtered where that is asked for, and nothing of today gets into them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest

from pyegress.errors import InputError, UsageError
from pyegress.inputs.log import Log, LogOptions
from pyegress.logs.jsonl import Encoder
from pyegress.losses import Losses
from pyegress.options import parse
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process

PATIENCE_S = 30
CURL = Process(pid=300, name="curl", uid=0, user="root", parent=Process(pid=20, name="bash"))
# Its own pid and uid, so that a look-up would find something else.
OURS = Process(pid=os.getpid(), name="somebody else", uid=os.geteuid(), user="nobody we know")


def connection(ts: int, dest_ip: str = "192.0.2.1", port: int | None = 443, **fields: object) -> Connection:
    version = 6 if ":" in dest_ip else 4
    fields = {"process": CURL, "attribution": "kernel", **fields}
    return Connection(ts, "ebpf", str(fields.pop("protocol", "tcp")), version, dest_ip, port, **fields)  # type: ignore[arg-type]


class Rig:
    """An input with what it counts."""

    def __init__(self, *files: Path | str, **given: str) -> None:
        pairs = [("file", str(file)) for file in files]
        pairs += [(key.replace("_", "-"), text) for key, text in given.items()]
        self.losses = Losses()
        self.input = Log(parse("-I", "log", LogOptions, pairs))
        self.input.open(Context(self.losses, print, print))

    def read(self) -> list[Connection]:
        """All of it."""
        found = [one for batch in self.input.read() for one in batch]
        self.input.refresh_losses()
        self.input.close()
        return found


def json_log(path: Path, connections: Sequence[Connection]) -> Path:
    path.write_bytes(Encoder().lines(connections))
    return path


def test_nothing_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a process that there is, and no name."""

    def unexpected(*words: object) -> None:
        raise AssertionError("looked up")

    for name in ("getaddrinfo", "gethostbyaddr", "getnameinfo"):
        monkeypatch.setattr(socket, name, unexpected)
    given = [
        connection(1, process=OURS),
        connection(2, process=None, attribution="process gone"),
        connection(3),
    ]
    assert Rig(json_log(tmp_path / "a", given)).read() == given


def test_loopback_that_was_logged_is_there(tmp_path: Path) -> None:
    """Unless it is filtered."""
    given = [connection(1, "127.0.0.1"), connection(2, "::1"), connection(3)]
    path = json_log(tmp_path / "a", given)
    assert Rig(path).read() == given
    rig = Rig(path, allow_loopback="false")
    assert rig.read() == given[2:]
    assert rig.losses.lines() == ["skipped: 2 to loopback (-I log:allow-loopback:true shows them)"]


@pytest.mark.parametrize(
    ("given", "kept", "said"),
    [
        ({"ignore_port": "53"}, [1, 3, 4], "skipped: 5 by ignore-port:53"),
        ({"only_port": "443"}, [1, 3], "skipped: 6 outside only-port"),
        ({"ignore_cidr": "192.0.2.0/24"}, [3, 4], "skipped: 6 by ignore-cidr:192.0.2.0/24"),
        ({"only_cidr": "fe80::/10"}, [3], "skipped: 7 outside only-cidr"),
        ({"protocol": "tcp"}, [1, 3], "skipped: 6 by protocol"),
        ({"ignore_comm": "curl"}, [4], "skipped: 7 by ignore-comm:curl"),
        ({"only_parent": "ba*"}, [1, 2, 3, 4], None),
    ],
)
def test_filters(tmp_path: Path, given: dict[str, str], kept: list[int], said: str | None) -> None:
    """Those of `run`, with datagrams counted; what isn't known is kept."""
    path = json_log(
        tmp_path / "a",
        [
            connection(1),
            connection(2, port=53, protocol="udp", count=5),
            connection(3, "fe80::1%eth0"),
            connection(4, "198.51.100.1", None, protocol="1", process=None, attribution="process gone"),
        ],
    )
    rig = Rig(path, **given)
    assert [one.ts for one in rig.read()] == kept
    assert said is None or said in rig.losses.lines()


def test_several_logs_are_one_by_time(tmp_path: Path) -> None:
    """Whatever their formats and order; what has no time stays behind the line before it."""
    new = json_log(tmp_path / "new", [connection(ts) for ts in range(5000, 6000)])
    old = tmp_path / "old"
    old.write_text(
        Logfmt(LogfmtOptions()).lines([connection(1), connection(3), connection(0, port=9), connection(5500)])
    )
    other = json_log(tmp_path / "other", [connection(2), connection(4)])
    found = Rig(new, old, other).read()
    assert [(one.ts, one.dest_port) for one in found[:5]] == [(1, 443), (2, 443), (3, 443), (0, 9), (4, 443)]
    assert [one.ts for one in found[5:]] == sorted([*range(5000, 6000), 5500])


def test_order_within_a_log_is_kept(tmp_path: Path) -> None:
    """Threads report a little out of order, and that is how it was."""
    given = [connection(ts) for ts in (5, 3, 9, 9, 1)]
    assert Rig(json_log(tmp_path / "a", given)).read() == given


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    path = json_log(tmp_path / "a", [connection(1)])
    path.write_bytes(path.read_bytes() + b"damaged\n" * 3)
    rig = Rig(path)
    assert len(rig.read()) == 1
    assert rig.losses.lines() == [f"unreadable: 3 {path}: lines that are no record of pyegress"]


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_read_ends_it_before_anything_is_given(tmp_path: Path, count: int) -> None:
    files = [tmp_path / "missing", json_log(tmp_path / "a", [connection(1)])][:count]
    batches = Rig(*files).input.read()
    with pytest.raises(InputError, match="missing: No such file"):
        next(batches)


def test_stop_ends_what_waits_for_more(tmp_path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")
    rig = Rig(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    found: list[list[Connection]] = []
    thread = Thread(target=lambda: found.append(rig.read()), daemon=True)
    thread.start()
    rig.input.stop()
    thread.join(PATIENCE_S)
    os.close(writer)
    assert found == [[]]


def test_stop_ends_a_file(tmp_path: Path) -> None:
    """What was read is given."""
    rig = Rig(json_log(tmp_path / "a", [connection(ts) for ts in range(1, 20_000)]))
    batches = rig.input.read()
    assert next(batches)
    rig.input.stop()
    assert list(batches) == []


def test_a_file_is_needed() -> None:
    with pytest.raises(UsageError, match="-I log:file: missing"):
        Rig()
    with pytest.raises(InputError, match="not open"):
        next(Log(LogOptions(file=("x",))).read())

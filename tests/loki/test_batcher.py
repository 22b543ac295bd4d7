# SPDX-License-Identifier: MIT
"""Bodies of pushes hold every record once, by stream, in order."""

from __future__ import annotations

import gzip
import json
from typing import Any

from pyegress.loki.batcher import Batcher, Sealed
from pyegress.loki.fields import Fields
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process
from tests.loki.test_fields import connection

TS = 1_790_000_000_123_456_789


def batcher(batch_bytes: int = 1 << 20, labels: dict[str, str] | None = None, *as_labels: str) -> Batcher:
    """One that writes logfmt lines."""
    common = {"job": "pyegress"} if labels is None else labels
    return Batcher(
        Logfmt(LogfmtOptions()).lines, common, Fields(frozenset(as_labels), redact=True), batch_bytes
    )


def body(sealed: Sealed | None) -> Any:
    """What Loki reads."""
    assert sealed is not None
    return json.loads(gzip.decompress(sealed.body))


def test_line_time_and_metadata() -> None:
    """The line is that of the logfmt output, hostile text and all."""
    record = connection(ts=TS, process=Process(name='a"\n\udcff\u2028', cmdline="x y"))
    made = batcher()
    assert list(made.add([record])) == []
    (stream,) = body(made.seal())["streams"]
    assert stream["stream"] == {"job": "pyegress"}
    ((ts, line, metadata),) = stream["values"]
    assert ts == str(TS)
    assert line + "\n" == Logfmt(LogfmtOptions()).lines([record])
    assert metadata["cmdline"] == "x y"
    assert metadata["process"] == 'a"\\n\\udcff\\u2028'


def test_streams() -> None:
    """One for each set of labels, the common ones in each."""
    made = batcher(1 << 20, {"host": 'h"'}, "destport", "process")
    records = [
        connection(ts=TS, dest_port=port, process=process)
        for port in (53, 443)
        for process in (Process(name="a"), None)
    ]
    assert list(made.add(records)) == []
    streams = body(made.seal())["streams"]
    assert [(stream["stream"], len(stream["values"])) for stream in streams] == [
        ({"host": 'h"', "destport": "53", "process": "a"}, 1),
        ({"host": 'h"', "destport": "53"}, 1),
        ({"host": 'h"', "destport": "443", "process": "a"}, 1),
        ({"host": 'h"', "destport": "443"}, 1),
    ]


def test_batches_by_size() -> None:
    """No batch is larger than it may be by more than a record, none is empty, and all records are in one."""
    made = batcher(10_000)
    records = [connection(ts=TS + number, src_port=number % 65536) for number in range(2000)]
    sealed = [*made.add(records), made.seal()]
    ports = []
    for one in sealed:
        assert one is not None
        assert len(gzip.decompress(one.body)) < 11_000
        values = body(one)["streams"][0]["values"]
        assert len(values) == one.records > 0
        ports += [int(metadata["srcport"]) for _, _, metadata in values]
    assert len(sealed) > 10
    assert ports == list(range(2000))
    assert made.seal() is None
    assert made.since is None


def test_entries_ascend() -> None:
    """Whatever order they came in; equal times keep theirs."""
    made = batcher()
    records = [connection(ts=TS + at, src_port=number) for number, at in enumerate((5, 3, 5, 0))]
    assert list(made.add(records)) == []
    values = body(made.seal())["streams"][0]["values"]
    assert [(int(ts) - TS, metadata["srcport"]) for ts, _, metadata in values] == [
        (0, "3"),
        (3, "1"),
        (5, "0"),
        (5, "2"),
    ]


def test_records_without_time() -> None:
    """They get the time of now, each its own: equal lines of equal times would be one to Loki."""
    made = batcher()
    record: Connection = connection(ts=0)
    assert list(made.add([record] * 1000)) == []
    values = body(made.seal())["streams"][0]["values"]
    assert len({ts for ts, _, _ in values}) == 1000
    assert min(int(ts) for ts, _, _ in values) > 1_700_000_000_000_000_000


def test_since() -> None:
    """The age of a batch is that of its first record."""
    made = batcher()
    assert made.since is None
    list(made.add([connection()]))
    since = made.since
    assert since is not None
    list(made.add([connection()]))
    assert made.since == since

# SPDX-License-Identifier: MIT
"""What hosts push to a real server comes back as it was, whatever happens to the server in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from pyegress.errors import InputError, UsageError
from pyegress.logs.fleet import Fleet
from pyegress.logs.jsonl import Encoder
from pyegress.logs.logfmt import LogfmtReader
from pyegress.loki import pages as module
from pyegress.loki.fields import Fields
from pyegress.loki.options import Moment, QueryOptions
from pyegress.loki.query import Entry
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection
from tests.logs.records import connections as any_connection
from tests.logserver import log_server
from tests.lokigate import Gate, gate
from tests.outputs.test_loki import connections, opened


@contextmanager
def fleet(url: str, **given: object) -> Iterator[Fleet]:
    """Of the last hour."""
    options = QueryOptions(url=url, since=Moment(ago_ns=3600 * 10**9), **given)  # type: ignore[arg-type]
    made = Fleet(options, lambda text: None)
    try:
        yield made
    finally:
        made.close()


def read(gated: Gate, **given: object) -> tuple[list[Connection], Losses]:
    """All that comes back, by time and port, and what is lost."""
    losses = Losses()
    with fleet(gated.url, **given) as made:
        found = [each for batch in made.whole.connections(losses) for each in batch]
    return sorted(found, key=lambda each: (each.ts, each.src_port or 0)), losses


def as_logged(sent: Sequence[Connection]) -> list[Connection]:
    """What logfmt keeps of them."""
    reader, lines = LogfmtReader(), Logfmt(LogfmtOptions()).lines(sent).encode().splitlines()
    return [reader.connection(line) for line in lines]


@given(any_connection)
def test_the_line_has_all_that_the_metadata_has(connection: Connection) -> None:
    """So nothing has to be taken from that."""
    (line,) = Logfmt(LogfmtOptions(redact=False)).lines([connection])[:-1].split("\n")
    again = LogfmtReader().connection(line.encode())
    fields = Fields(frozenset(), False)
    assert fields.of(again) == fields.of(connection)


def test_hosts_and_a_server_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while hosts push, and while it is read: every record is there, once, over many pages."""
    monkeypatch.setattr(module, "PAGE", 100)
    sent = {host: connections(first, 700) for host, first in (("web1", 0), ("web2", 350), ("db", 2000))}
    with log_server(tmp_path) as server, gate(server) as gated:
        for number, (host, records) in enumerate(sent.items()):
            with opened(server.url, labels=f"host={host}", batch_wait="1ms", batch_size="8K") as rig:
                rig.output.write(records[:400])
                if number == 1:
                    server.await_on_disk(1100)
                    server.kill()
                rig.output.write(records[400:])
                if number == 1:
                    server.start()
        server.await_on_disk(2100)
        losses = Losses()
        found: list[Connection] = []
        with fleet(gated.url) as made:
            for number, batch in enumerate(made.whole.connections(losses)):
                found += batch
                if number == 5:
                    server.kill()
                    server.start()
        wanted = [record for records in sent.values() for record in as_logged(records)]
        assert sorted(found, key=str) == sorted(wanted, key=str)
        assert losses.snapshot() == {}
        assert len(gated.asked) > 20
        assert max(int(words["limit"]) for words in gated.asked) == 100
        with fleet(gated.url) as made:
            parts, without = made.by("host")
            read_by = {
                host: [each for some in part.connections(losses) for each in some] for host, part in parts
            }
        assert without == 0
        assert read_by == {host: as_logged(records) for host, records in sorted(sent.items())}


def test_hosts_at_the_same_nanosecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal lines of several hosts are several records, also where a page ends between them."""
    monkeypatch.setattr(module, "PAGE", 4)
    with log_server(tmp_path) as server, gate(server) as gated:
        for host in "abc":
            with opened(server.url, labels=f"host={host}") as rig:
                rig.output.write(connections(0, 20))
        server.await_rows(60)
        found, losses = read(gated)
    assert found == [record for record in as_logged(connections(0, 20)) for _ in "abc"]
    assert losses.snapshot() == {}


def test_smaller_pages_of_a_server(tmp_path: Path) -> None:
    """It says how much it gives, and is asked for that."""
    with log_server(tmp_path) as server, gate(server, most_entries=80) as gated:
        with opened(server.url) as rig:
            rig.output.write(connections(0, 300))
        server.await_rows(300)
        found, _ = read(gated)
    assert found == as_logged(connections(0, 300))


def test_repeats_are_the_same(tmp_path: Path) -> None:
    """As many connections, in fewer pieces."""
    with log_server(tmp_path) as server, gate(server) as gated:
        with opened(server.url) as rig:
            rig.output.write(connections(0, 300))
        server.await_rows(300)
        with fleet(gated.url) as made:
            found = [each for some in made.whole.repeats(Losses()) for each in some]
    assert sum(each.records for each in found) == 300
    assert len(found) < 10


def test_lines_of_others(tmp_path: Path) -> None:
    """JSON that something shipped is read too; what is no record is counted, wherever it is."""
    shipped = Encoder().lines(connections(0, 2)).decode().splitlines()

    class Page:
        name = "Loki"

        def entries(self, query: str, start_ns: int, end_ns: int, limit: int) -> list[object]:
            lines = [
                *shipped,
                "GET / HTTP/1.1",
                "{}",
                *Logfmt(LogfmtOptions()).lines(connections(2, 1)).splitlines(),
            ]
            return [Entry(start_ns, (), line) for line in lines]

    losses = Losses()
    with fleet("http://localhost") as made:
        streams = made.whole._replace(pages=module.Pages(Page(), 0, 10), name="x\\u001b")  # type: ignore[arg-type]
        found = [each for some in streams.connections(losses) for each in some]
        counted = Losses()
        repeats = [each for some in streams.repeats(counted) for each in some]
    assert [each.src_port for each in found] == [0, 1, 2]
    assert found[:2] == connections(0, 2)
    assert sum(each.records for each in repeats) == 3
    assert (
        losses.snapshot()
        == counted.snapshot()
        == {("unreadable", "x\\u001b: lines that are no record of pyegress"): 2}
    )


def test_label_that_no_stream_has(tmp_path: Path) -> None:
    """The ones that there are are named; streams without the label are counted."""
    with log_server(tmp_path) as server, gate(server) as gated:
        for labels in ("host=a,site=x", "host=b"):
            with opened(server.url, labels=labels) as rig:
                rig.output.write(connections(0, 1))
        server.await_rows(2)
        with fleet(gated.url) as made:
            parts, without = made.by("site")
            assert ([value for value, _ in parts], without) == (["x"], 1)
            with pytest.raises(
                InputError, match="no stream of Loki at .* has that label; did you mean 'host'?"
            ):
                made.by("hosts")
        with fleet(gated.url, query='{job="other"}') as made:
            assert made.by("host") == ([], 0)


def test_since_after_until() -> None:
    """Said before anything is asked."""
    options = QueryOptions(url="http://localhost", since=Moment(ago_ns=1), until=Moment(ago_ns=2))
    with pytest.raises(UsageError, match="--since: must be before --until"):
        Fleet(options, lambda text: None)


def test_records_without_a_time_stay_without(tmp_path: Path) -> None:
    """Loki's time for them is when they were pushed, which says nothing of them."""
    timeless = [msgspec.structs.replace(record, ts=0) for record in connections(1, 3)]
    with log_server(tmp_path) as server, gate(server) as gated:
        with opened(server.url) as rig:
            rig.output.write(timeless)
        server.await_rows(3)
        found, _ = read(gated)
    assert found == as_logged(timeless)

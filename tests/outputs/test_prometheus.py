# SPDX-License-Identifier: MIT
"""What Prometheus gets: by HTTP from the program itself, read back by the library's own parser."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyegress import __version__, options
from pyegress.errors import OutputError, UsageError
from pyegress.losses import Losses
from pyegress.outputs.prometheus import Prometheus, PrometheusOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process

PATIENCE = 30
HOSTILE = 'x"}\n# HELP \\evil 1\n\x1b' + b"\xff".decode(errors="surrogateescape") + "é" * 200

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Said(SimpleQueue[str]):
    """Notices, which can be waited for."""

    def next(self) -> str:
        return self.get(timeout=PATIENCE)


@contextmanager
def opened(
    context: Context | None = None, **given: object
) -> Iterator[tuple[Prometheus, str, Context, Said]]:
    """The output, and the address that it said."""
    said = Said()
    context = context or Context(Losses(), said.put, print)
    output = Prometheus(PrometheusOptions(**({"listen": "127.0.0.1:0"} | given)))  # type: ignore[arg-type]
    output.open(context)
    try:
        yield output, "" if "textfile" in given else said.next().removeprefix("prometheus: "), context, said
    finally:
        output.close()
        output.close()


def connection(process: Process | None = None, protocol: str = "tcp") -> Connection:
    return Connection(1, "ebpf", protocol, 4, "192.0.2.1", 443, process=process)


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def asked(address: str) -> Samples:
    with urlopen(address, timeout=PATIENCE) as answer:
        return parsed(answer.read().decode())


def test_connections_losses_filters_and_queues() -> None:
    """Each as a counter or gauge of its own, with the kernel's counters as they are now."""
    losses = Losses()
    said = Said()
    context = Context(
        losses,
        said.put,
        print,
        refresh=lambda: losses.put("lost", "ring buffer full", 9),
        queues=lambda: {"logfmt": 5},
    )
    losses.add("skipped", "by ignore-port 53", 7)
    losses.add("unattributed", "process gone", 2)
    output = Prometheus(PrometheusOptions(listen="127.0.0.1:0"))
    output.open(context)
    address = said.next().removeprefix("prometheus: ")
    curl, other_curl = Process(pid=1, name="curl"), Process(pid=2, name="curl")
    output.write([connection(curl), connection(other_curl), connection(curl, "udp"), connection()])
    found = asked(address)
    started = found.pop(("pyegress_start_time_seconds", ()))
    assert started > 1.7e9
    assert found == {
        ("pyegress_info", (("version", __version__),)): 1,
        ("pyegress_connections_total", (("process", "curl"), ("protocol", "tcp"))): 2,
        ("pyegress_connections_total", (("process", "curl"), ("protocol", "udp"))): 1,
        ("pyegress_connections_total", (("process", "unknown"), ("protocol", "tcp"))): 1,
        ("pyegress_lost_total", (("reason", "ring buffer full"), ("stage", "lost"))): 9,
        ("pyegress_lost_total", (("reason", "process gone"), ("stage", "unattributed"))): 2,
        ("pyegress_filtered_total", (("decision", "skipped"), ("reason", "by ignore-port 53"))): 7,
        ("pyegress_queued_records", (("output", "logfmt"),)): 5,
    }
    output.close()
    with pytest.raises(OSError, match="refused"):
        asked(address)


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("process", [("process", "curl")]),
        ("unit", [("unit", "cron.service")]),
        ("user", [("user", "root")]),
        ("none", []),
    ],
)
def test_whose_they_are(by: str, labels: list[tuple[str, str]]) -> None:
    process = Process(pid=1, name="curl", unit="cron.service", user="root")
    with opened(by=by) as (output, address, _, _):
        output.write([connection(process)] * 3)
        found = {
            key: value for key, value in asked(address).items() if key[0] == "pyegress_connections_total"
        }
    assert found == {("pyegress_connections_total", (*sorted([*labels, ("protocol", "tcp")]),)): 3}


def test_series_are_bounded_and_none_is_lost() -> None:
    """Who calls themselves something else each time ends up among the others."""
    with opened(series=10) as (output, address, _, _):
        for number in range(1000):
            output.write(
                [
                    connection(
                        Process(pid=number, name=f"p{number}"), protocol=("tcp", str(number))[number % 2]
                    )
                ]
            )
        found = {
            key: value for key, value in asked(address).items() if key[0] == "pyegress_connections_total"
        }
    assert len(found) == 12
    assert sum(found.values()) == 1000
    assert found["pyegress_connections_total", (("process", "other"), ("protocol", "tcp"))] == 495


def test_hostile_names_are_one_short_label() -> None:
    """Whatever a process calls itself, the rest still means what it says."""
    losses = Losses()
    losses.add("lost", HOSTILE)
    with opened() as (output, address, context, _):
        context.losses.add("lost", HOSTILE)
        output.write([connection(Process(pid=1, name=HOSTILE)), connection(protocol=HOSTILE)])
        found = asked(address)
    names = {name for name, _ in found}
    assert names == {
        "pyegress_info",
        "pyegress_start_time_seconds",
        "pyegress_connections_total",
        "pyegress_lost_total",
    }
    values = [value for _, labels in found for _, value in labels]
    assert all(len(value) <= 128 and value.isprintable() for value in values)
    assert sum(value.startswith('x"}\\n# HELP \\\\evil 1\\n\\u001b\\udcffé') for value in values) == 3


def test_an_ipv6_address() -> None:
    with opened(listen="[::1]:0") as (output, address, _, _):
        output.write([connection()])
        assert address.startswith("http://[::1]:")
        assert (
            asked(address)["pyegress_connections_total", (("process", "unknown"), ("protocol", "tcp"))] == 1
        )


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError) as raised, opened(listen=f"127.0.0.1:{port}"):
            pass
    assert str(raised.value) == (
        f"prometheus: can't listen on 127.0.0.1:{port}: Address already in use; name another port"
        " (-O prometheus:listen:127.0.0.1:PORT)"
    )


def test_an_address_of_another_host_is_one_line() -> None:
    with pytest.raises(OutputError, match="name an address of this host"), opened(listen="192.0.2.1:9411"):
        pass


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("listen", "9411"),
        ("listen", "127.0.0.1"),
        ("listen", "::1:9411"),
        ("listen", "127.0.0.1:99999"),
        ("listen", "http://127.0.0.1:9411"),
        ("textfile", "/tmp/egress.txt"),
        ("series", "0"),
        ("by", "pid"),
    ],
)
def test_wrong_options_are_refused(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^-O prometheus.*{key}.*must"):
        options.parse("-O", "prometheus", PrometheusOptions, [(key, text)])


def test_it_is_for_this_host_alone_unless_told_otherwise() -> None:
    assert PrometheusOptions().listen == "127.0.0.1:9411"


def test_clients_that_misbehave_say_nothing_and_hold_up_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """One that asks and goes, one that sends rubbish, one that says nothing until the end."""
    with opened() as (output, address, _, _):
        output.write([connection()])
        port = int(address.split(":")[2].split("/")[0])
        for sent in (b"GET /metrics HTTP/1.0\r\n\r\n", b"\xff\n\n\n", b"GET"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(sent)
        assert asked(address)
        silent = socket.create_connection(("127.0.0.1", port), PATIENCE)
        # Closing must not wait for it, whether or not it is being served by then.
    silent.close()
    assert capfd.readouterr() == ("", "")


def test_textfile_is_whole_and_for_all_to_read(tmp_path: Path) -> None:
    """Written at once, from time to time, and at exit; node_exporter is another user."""
    path = tmp_path / "egress.prom"
    with opened(textfile=str(path), interval=100_000_000) as (output, _, _, _):
        assert "pyegress_info" in {name for name, _ in parsed(path.read_text())}
        output.write([connection()])
        while ("pyegress_connections_total", (("process", "unknown"), ("protocol", "tcp"))) not in parsed(
            path.read_text()
        ):
            pass
        output.write([connection()])
    assert (
        parsed(path.read_text())["pyegress_connections_total", (("process", "unknown"), ("protocol", "tcp"))]
        == 2
    )
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert [file.name for file in tmp_path.iterdir()] == ["egress.prom"]


def test_textfile_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "a.prom")
    with (
        pytest.raises(OutputError, match="can't write .*a.prom: No such file or directory$"),
        opened(textfile=path),
    ):
        pass


def test_textfile_that_fails_later_is_said_once_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    with opened(textfile=str(folder / "a.prom"), interval=100_000_000) as (output, _, _, said):
        folder.rename(tmp_path / "away")
        assert said.next().endswith("No such file or directory; it is tried again")
        output.write([connection()])
        folder.mkdir()
    assert parsed((folder / "a.prom").read_text())[
        "pyegress_connections_total", (("process", "unknown"), ("protocol", "tcp"))
    ]
    assert said.empty()


def test_row_of_a_store_is_as_many_connects_as_it_stands_for() -> None:
    """Datagrams are not told from flows there."""
    rows = [Connection(1, "ebpf", protocol, 4, "192.0.2.1", 443, count=7) for protocol in ("tcp", "udp")]
    with opened(by="none") as (output, address, _, _):
        output.write(rows)
        with urlopen(address, timeout=PATIENCE) as answer:
            found = parsed(answer.read().decode())
    counts = {
        labels: value for (name, labels), value in found.items() if name == "pyegress_connections_total"
    }
    assert counts == {(("protocol", "tcp"),): 7.0, (("protocol", "udp"),): 1.0}

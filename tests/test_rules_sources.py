# SPDX-License-Identifier: MIT
"""`pyegress rules --loki`: the same rules as from logs, for all hosts or for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pyegress.logs.jsonl import Encoder
from pyegress.record import Connection, Process
from pyegress.rules_sources import file_of
from tests.logs.records import LAST_NS
from tests.logserver import LogServer, free_port, log_server
from tests.lokigate import Gate, gate
from tests.lokistub import Reply, stub
from tests.netns import needs_netfilter
from tests.outputs.test_loki import BASE, opened
from tests.test_rules_command import rules

INIT = Process(pid=1, name="systemd", exe="/usr/lib/systemd/systemd")
CURL = Process(
    pid=300,
    name="curl$(id)\n\udcff",
    exe="/usr/bin/curl",
    cmdline="curl " + "x" * 3000 + " --password hush",
    uid=1000,
    user="alice",
    cgroup="/system.slice/a b.service",
    cgroup_id=77,
    unit="a b.service",
    parent=Process(
        pid=299, name="bash", cmdline="bash -c x", parent=Process(pid=200, name="sshd", parent=INIT)
    ),
)
HOSTILE_HOST = '../../x{host}"} or {a="\N{SNOWMAN}'


def records(host: int) -> list[Connection]:
    """Connections of which some are those of other hosts too."""
    by = [CURL, msgspec.structs.replace(CURL, uid=33, user="www-data"), None]
    found = [
        Connection(
            ts=BASE + number * 1000 + host,
            hook="ebpf",
            protocol="udp" if number % 3 else "tcp",
            ip_version=4,
            dest_ip=f"192.0.2.{number % (host + 4)}",
            dest_port=443 + number % 2,
            src_ip="10.0.0.1",
            src_port=1000 + number,
            count=1 + number % 3 * host,
            process=by[number % 3],
            attribution="kernel" if number % 3 < 2 else "process gone",
            socket_uid=1000 if number % 5 else None,
            dest_names=("a.example", "b.example") if number % 2 else (),
        )
        for number in range(200)
    ]
    link_local = msgspec.structs.replace(
        found[0], ip_version=6, dest_ip="fe80::1", ifname="eth0", process=INIT
    )
    inbound = msgspec.structs.replace(found[0], direction="in", dest_ip="192.0.2.200")
    return [*found, link_local, inbound, msgspec.structs.replace(found[0], ts=0, dest_ip="198.51.100.1")]


HOSTS = {"web1": records(1), "web2": records(2), HOSTILE_HOST: records(3)}


@contextmanager
def pushed(folder: Path) -> Iterator[tuple[LogServer, Gate]]:
    """A server that has the records of all hosts, which was killed and started while they pushed."""
    server_folder = folder / "server"
    server_folder.mkdir()
    with log_server(server_folder) as server, gate(server) as gated:
        for number, (host, sent) in enumerate(HOSTS.items(), 1):
            # The host's name is the one of the machine; a label can hold no comma.
            with opened(server.url, labels=f"host={host}", batch_size="16K") as rig:
                rig.output.write(sent[:100])
                server.await_on_disk(203 * (number - 1) + 100)
                server.kill()
                rig.output.write(sent[100:])
                server.start()
            server.await_on_disk(203 * number)
        yield server, gated


def logged(folder: Path, name: str, *hosts: str) -> Path:
    """What the json output would have written there, of several hosts by time."""
    path = folder / name
    found = [record for host in hosts for record in HOSTS[host]]
    path.write_bytes(Encoder(redact=True).lines(sorted(found, key=lambda each: each.ts or LAST_NS)))
    return path


FORMS = [
    ("--as", "nftables", "--verbose", "2"),
    ("--as", "nftables", "--scope", "user", "--merge", "ports", "--policy", "drop"),
    ("--as", "json", "--scope", "unit"),
    ("--as", "restore", "--family", "4", "--verbose", "1"),
]


def test_equal_to_rules_from_json(tmp_path: Path) -> None:
    """To the byte, in every form: of all hosts, of one that the query picks, and of each."""
    whole = logged(tmp_path, "all", *HOSTS)
    logs = {host: logged(tmp_path, f"log{number}", host) for number, host in enumerate(HOSTS)}
    with pushed(tmp_path) as (_, gated):
        for form in FORMS:
            code, out, err = rules(*form, "--loki", gated.url, "--since", "1h")
            assert (code, out, err) == rules(*form, whole)
            assert code == 0
            assert "192.0.2.5" in out
            assert "hush" not in out
        one = rules(*FORMS[0], "--loki", gated.url, "--since", "1h", "--query", '{host="web1"}')
        assert one == rules(*FORMS[0], logs["web1"])
        (tmp_path / "made").mkdir()
        pattern = tmp_path / "made" / "rules-{host}.nft"
        code, out, err = rules(*FORMS[0], "--loki", gated.url, "--since", "1h", "--by", "host", "-f", pattern)
        assert (code, out) == (0, "")
        made = {path.name: path.read_text() for path in (tmp_path / "made").iterdir()}
    hostile = "rules-%2E.%2F..%2Fx%7Bhost%7D%22%7D%20or%20%7Ba%3D%22%E2%98%83.nft"
    assert made == {
        name: rules(*FORMS[0], logs[host])[1]
        for name, host in (("rules-web1.nft", "web1"), ("rules-web2.nft", "web2"), (hostile, HOSTILE_HOST))
    }


@needs_netfilter
def test_verify_and_diff(tmp_path: Path) -> None:
    """With Loki in the place of logs."""
    log = logged(tmp_path, "log", "web1")
    made = tmp_path / "made"
    assert rules("--policy", "drop", "-f", made, log)[0] == 0
    with pushed(tmp_path) as (_, gated):
        source = ("--loki", gated.url, "--since", "1h")
        one = (*source, "--query", '{host="web1"}')
        assert rules("--verify", made, *one) == rules("--verify", made, log)
        code, said, _ = rules("--verify", made, *source)
        assert code == 1
        assert "192.0.2.5" in said
        # What is loaded on this host is none of a test's business: a table of that name isn't.
        differ = ("--diff", "--table", "pyegress_of_no_host")
        assert rules(*differ, *one) == rules(*differ, log)
        code, said, err = rules(*differ, *one)
        assert (code, "missing (wanted, not live): " in said) == (1, True)
        assert "table inet pyegress_of_no_host is not loaded here" in err


def test_nothing_found(tmp_path: Path) -> None:
    """Of nobody there are no rules, and hosts without any are said."""
    with stub() as server:
        empty = json.dumps({"data": {"resultType": "streams", "result": []}})
        server.script(Reply(200, empty))
        code, out, err = rules("--loki", server.url, "--since", "1h")
        assert (code, out) == (1, "")
        assert f"no outbound connection in Loki at {server.url} that a rule could allow" in err
        server.script(Reply(200, '{"data":[{"host":"a"},{"job":"pyegress"}]}'), Reply(200, empty))
        code, _, err = rules("--loki", server.url, "--since", "1h", "--by", "host", "-f", tmp_path / "{host}")
    assert code == 1
    assert "left out: 1 streams without the label host" in err
    assert f"no outbound connection in host=a in Loki at {server.url} that a rule could allow" in err
    assert list(tmp_path.iterdir()) == []


def test_more_of_one_time_than_a_page(tmp_path: Path) -> None:
    """The loss is said, on stderr and in the rules."""
    line = "ts=2026-01-01T00:00:00.000000000Z hook=ebpf protocol=tcp dest_ip=192.0.2.1 dest_port=443 ip_version=4"
    values = [["1767225600000000000", f"{line} src_port={number}"] for number in range(5000)]
    full = json.dumps({"data": {"resultType": "streams", "result": [{"stream": {}, "values": values}]}})
    with stub() as server:
        server.script(
            Reply(200, full), Reply(200, full), Reply(200, '{"data":{"resultType":"streams","result":[]}}')
        )
        words = ("--since", "2025-12-31T23:00", "--until", "2026-01-01T01:00")
        code, out, err = rules("--loki", server.url, *words)
    assert code == 0
    assert "lost: 1 loki: times with more records than a page holds" in err
    assert "loki: times with more records than a page holds" in out


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("web1", "web1"),
        ("a/b\0c", "a%2Fb%00c"),
        ("..", "%2E."),
        (".ssh", "%2Essh"),
        ("-rf", "%2Drf"),
        ("{host}", "%7Bhost%7D"),
        ("\n\x1b", "%0A%1B"),
        ("%2E.", "%252E."),
    ],
)
def test_file_of(value: str, part: str) -> None:
    """Whatever the value is, the file is in its folder."""
    assert file_of("out/rules-{host}", "host", value) == f"out/rules-{part}"


def test_files_of_long_values() -> None:
    """Names are short enough, and no two the same."""
    names = {file_of("{host}.nft", "host", "\N{SNOWMAN}" * 500 + end) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) < 200


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--query", "{}", "x"], 2, "--query: only with --loki URL"),
        (["--pass-file", "x", "x"], 2, "--pass-file: only with --loki URL"),
        (["--by", "host", "x"], 2, "--by: only with --loki URL"),
        (["--loki", "http://localhost", "x"], 2, "give either LOGs or --loki"),
        (["--loki", "http://me:hush@localhost", "--pass", "hush"], 2, "--loki: pass: given more than once"),
        (["--loki", "hush"], 2, "--loki: url: must be http://HOST:PORT"),
        (["--loki", "http://localhost", "--query", "rate"], 2, "--loki: query: must be a log query"),
        (["--loki", "http://localhost", "--since", "soon"], 2, "--since soon: must be how long ago"),
        (["--loki", "http://localhost", "--since", "0"], 2, "--since: must be before --until"),
        (["--loki", "http://localhost", "--by", "host"], 2, "such as rules-{host}.nft"),
        (
            ["--loki", "http://localhost", "--by", "host", "-f", "{host}/x"],
            2,
            "give --file with {host} in its name",
        ),
        (["--loki", "http://localhost", "--by", "host", "--diff"], 2, "--by: not with --diff"),
        (["--loki", "http://localhost", "--by", "host", "--verify", "x"], 2, "--by: not with --verify"),
        (["--loki", "http://localhost", "--user", "me"], 1, "user me has no password"),
        (["--loki", "http://localhost", "--ca-file", "/missing"], 0, ""),
    ],
)
def test_mistakes(words: list[str], code: int, said: str) -> None:
    """One line with the way on, and without passwords."""
    if not said:
        words = ["--loki", "https://localhost", "--ca-file", "/missing"]
        code, said = 1, "cannot use ca-file /missing"
    status, out, err = rules(*words)
    assert (status, out) == (code, "")
    assert said in err
    assert "hush" not in err
    assert "Traceback" not in err


def test_nobody_answers() -> None:
    """One line with the cause, after the time that was given."""
    code, out, err = rules("--loki", f"http://127.0.0.1:{free_port()}", "--since", "1h", "--give-up", "1ms")
    assert (code, out) == (1, "")
    assert "Connection refused; tried 1 times, try later" in err
    assert err.count("\n") == 1

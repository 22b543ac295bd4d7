# SPDX-License-Identifier: MIT
"""`pyegress replay` from the command line: what went in comes out, whatever the way."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pyegress.logs.jsonl import Encoder
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process
from tests.logserver import log_server

PATIENCE_S = 120
START_NS = 1_700_000_000_123_456_789
HOUR_NS = 3_600_000_000_000
HOSTILE = 'a"b\\c\n\x1b[31m=\u202e\udcff'


def pyegress(*words: str | Path, text: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pyegress", *map(str, words)],
        input=text,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def replayed(*words: str | Path, text: bytes | None = None) -> bytes:
    """What comes out where all goes well."""
    code, out, err = pyegress("replay", *words, text=text)
    assert code == 0, err
    return out


def connections() -> list[Connection]:
    """Of all kinds, with no field that logfmt leaves out."""
    init = Process(pid=1, name="systemd", exe="/usr/lib/systemd/systemd", user="root")
    shell = Process(pid=20, name="bash", exe="/bin/bash", user="ubuntu", parent=init)
    curl = Process(
        pid=300,
        name="curl",
        exe="/usr/bin/curl",
        cmdline="curl --password=hunter2 https://example.org",
        uid=1000,
        gid=1000,
        user="ubuntu",
        unit="session-1.scope",
        container="abc",
        parent=shell,
    )
    odd = Process(pid=301, name=HOSTILE, cmdline="", kernel=True, cmdline_cut=True)
    made = []
    for at in range(600):
        made.append(
            Connection(
                START_NS + at * HOUR_NS // 60,
                "ebpf",
                "tcp",
                6 if at % 3 else 4,
                f"2001:db8::{at % 7 + 1:x}" if at % 3 else f"192.0.2.{at % 7}",
                443,
                "10.0.0.1",
                1024 + at,
                process=odd if at % 10 == 0 else curl,
                result="ECONNREFUSED" if at % 5 == 0 else None,
                netns=4026531840,
                thread=HOSTILE if at % 11 == 0 else None,
                attribution="kernel",
                socket_uid=1000,
                dest_names=("a.example", "b.example") if at % 4 == 0 else (),
                verdict="accept" if at % 8 == 0 else None,
            )
        )
        made.append(
            Connection(
                START_NS + at * HOUR_NS // 60 + 5,
                "nflog",
                "udp",
                4,
                "192.0.2.53",
                53,
                count=at % 9 + 1,
                ifname="eth0",
                attribution="process gone",
            )
        )
    made.append(Connection(0, "pcap", "1", 4, "192.0.2.1", None, direction="in"))
    return made


def json_log(path: Path, redact: bool = True) -> bytes:
    data = Encoder(redact).lines(connections())
    path.write_bytes(data)
    return data


def test_json_is_the_same(tmp_path: Path) -> None:
    """Byte for byte, also what would be hidden where that is turned off, through a pipe, and compressed."""
    log = tmp_path / "log"
    data = json_log(log)
    assert b"hunter2" not in data
    assert replayed(log, "-o", "json") == data
    assert replayed("-", "-o", "json", text=gzip.compress(data)) == data
    bare = json_log(log, redact=False)
    assert b"hunter2" in bare
    assert replayed(log, "-o", "json", "-O", "json:redact:false") == bare
    assert replayed(log, "-o", "json") == data


def test_logfmt_is_the_same_and_so_is_json_by_way_of_it(tmp_path: Path) -> None:
    """Order, times, counts, whatever a process calls itself."""
    log, other = tmp_path / "log", tmp_path / "other"
    data = Logfmt(LogfmtOptions()).lines(connections()).encode()
    log.write_bytes(data)
    assert replayed(log, "-o", "logfmt") == data
    as_json = json_log(log)
    assert replayed(log, "-o", "logfmt") == data
    other.write_bytes(data)
    assert replayed(other, "-o", "json") == as_json


def test_all_outputs_at_once(tmp_path: Path) -> None:
    """A database, and a log of it by time, in which nothing that was counted is missing, in either format."""
    log, store = tmp_path / "log", tmp_path / "egress.db"
    data = json_log(log)
    out = replayed(
        *(log, "-o", "sqlite", "-O", f"sqlite:file:{store}", "-o", "json"),
        *("-o", "prometheus", "-O", f"prometheus:textfile:{tmp_path}/egress.prom"),
    )
    assert out == data
    folded = [json.loads(line) for line in replayed(store, "-o", "json").splitlines()]

    def counted(records: list[dict[str, object]]) -> Counter[object]:
        counts: Counter[object] = Counter()
        for one in records:
            counts[one["protocol"], one["dest_ip"]] += int(str(one["count"]))
        return counts

    whole = [json.loads(line) for line in data.splitlines()]
    assert len(folded) < len(whole) / 4
    assert counted(folded) == counted(whole)
    times = [one.get("ts", "") for one in folded]
    assert times == sorted(times)
    assert (times[0], times[1], times[-1]) == ("", whole[0]["ts"], whole[-2]["ts"])
    lines = replayed(store, "-o", "logfmt").decode().splitlines()
    assert [int(found[1]) if (found := re.search(r" count=(\d+)", line)) else 1 for line in lines] == [
        one["count"] for one in folded
    ]
    assert 'pyegress_connections_total{process="curl",protocol="tcp"} 540.0' in (
        (tmp_path / "egress.prom").read_text().splitlines()
    )
    replayed(store, "-o", "prometheus", "-O", f"prometheus:textfile:{tmp_path}/again.prom")
    assert 'pyegress_connections_total{process="curl",protocol="tcp"} 540.0' in (
        (tmp_path / "again.prom").read_text().splitlines()
    )


@pytest.mark.parametrize(
    ("form", "output"),
    [
        ("nftables", ["nftables"]),
        ("iptables", ["iptables"]),
        ("json", ["iptables", "-O", "iptables:format:json"]),
    ],
)
def test_rules_are_those_that_the_rules_command_makes(tmp_path: Path, form: str, output: list[str]) -> None:
    """With the evidence of the log, not of the moment, and what could not be read in it."""
    log = tmp_path / "log"
    log.write_bytes(json_log(log) + b"damaged\n")
    code, made, _ = pyegress("rules", "--as", form, log)
    assert code == 0
    again = replayed(log, "-o", *output)
    assert again == made
    if form == "nftables":
        assert b"# observed: 9h 59m" in again and b"no record of pyegress" in again


def test_losses_are_said(tmp_path: Path) -> None:
    """Those of the log, and those that a database tells of."""
    log = tmp_path / "log"
    data = json_log(log)
    log.write_bytes(data + b"damaged\n" * 3)
    code, out, err = pyegress("replay", log, "-o", "json")
    assert (code, out) == (0, data)
    assert err.splitlines()[-2:] == [
        f"pyegress: {len(connections())} connections",
        f"pyegress: unreadable: 3 {log}: lines that are no record of pyegress",
    ]
    store = tmp_path / "egress.db"
    assert pyegress("replay", log, "-o", "sqlite", "-O", f"sqlite:file:{store}")[0] == 0
    _, _, err = pyegress("replay", store, "-o", "json")
    assert err.splitlines()[-1] == f"pyegress: unreadable: 3 {log}: lines that are no record of pyegress"


def test_first_ones_and_filters(tmp_path: Path) -> None:
    """Without an output named they are for people to read."""
    log = tmp_path / "log"
    json_log(log)
    lines = replayed(
        log, "-I", "log:only-port:53", "-I", "log:ignore-cidr:10.0.0.0/8", "-C", "2"
    ).splitlines()
    assert len(lines) == 2
    assert all(b"UDP 192.0.2.53:53(domain)" in line for line in lines)


def test_into_a_log_server(tmp_path: Path) -> None:
    """All of it with its times, by time, in a stream of its own, though memory holds but a part of it."""
    old, new = tmp_path / "old", tmp_path / "new"
    now_ns = START_NS // HOUR_NS * HOUR_NS
    with log_server(tmp_path, "-retentionPeriod=100y") as server:
        process = Process(pid=1, name="curl", cmdline="x" * 2000)
        given = [
            Connection(now_ns + at, "ebpf", "tcp", 4, "192.0.2.1", 443, "10.0.0.1", at, process=process)
            for at in range(20_000)
        ]
        old.write_bytes(Encoder().lines(given[::2]))
        new.write_bytes(Encoder().lines(given[1::2]))
        code, _, err = pyegress(
            *("replay", new, old, "-o", "loki", "-O", f"loki:url:{server.url}"),
            *("-O", "loki:queue:64K", "-O", "loki:batch-size:64K"),
        )
        assert code == 0
        assert "lost" not in err
        rows = server.await_rows(len(given))
    assert [row["srcport"] for row in rows] == [str(at) for at in range(20_000)]
    assert all('job="pyegress",source="replay"' in row["_stream"] for row in rows)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "replay: name a log"),
        (["x", "-I", "ebpf:quiet:true"], 2, "-I ebpf:quiet:true: must be log:KEY:VALUE"),
        (["x", "-I", "log:window:1s"], 2, "-I log:window: no such option"),
        (["x", "-o", "jsn"], 2, "no such output 'jsn'; did you mean 'json'?"),
        (["x", "-C", "0"], 2, "-C 0: must be at least 1"),
        (["/missing"], 1, "cannot open /missing: No such file or directory (ENOENT)"),
        (["\x1b[2J"], 1, "cannot open \\u001b[2J: No such file"),
        (["README.md"], 1, "README.md: not a log of pyegress"),
    ],
)
def test_mistakes(words: list[str], code: int, said: str) -> None:
    """One line with the way on."""
    status, out, err = pyegress("replay", *words)
    assert (status, out) == (code, b"")
    assert said in err
    assert "Traceback" not in err

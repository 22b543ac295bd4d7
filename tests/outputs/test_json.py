# SPDX-License-Identifier: MIT
"""One connection is one line that any reader of JSON takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs.json import Json, JsonOptions
from pyegress.plugin import Context
from pyegress.record import Process
from tests.inputs.test_ebpf import send
from tests.outputs.test_logfmt import CURL, RICH, connection


def written(path: Path, *batch: object) -> list[str]:
    output = Json(JsonOptions(file=str(path)))
    output.open(Context(Losses(), print, print))
    output.write(batch)  # type: ignore[arg-type]
    output.close()
    return path.read_text().splitlines()


def test_all_that_is_known_is_there(tmp_path: Path) -> None:
    """By the names of the record, parents inside their children."""
    (line,) = written(
        tmp_path / "log", connection(src_ip="192.168.1.229", src_port=60166, process=CURL, tid=301)
    )
    assert json.loads(line) == {
        "ts": "2023-11-14T22:13:20.123456789Z",
        "hook": "ebpf",
        "protocol": "tcp",
        "ip_version": 4,
        "dest_ip": "146.148.13.123",
        "dest_port": 443,
        "src_ip": "192.168.1.229",
        "src_port": 60166,
        "count": 1,
        "direction": "out",
        "tid": 301,
        "process": {
            "pid": 300,
            "name": "curl",
            "exe": "/usr/bin/curl",
            "cmdline": "curl https://www.devops.works",
            "uid": 1000,
            "user": "ubuntu",
            "cgroup_id": 77,
            "unit": "session-1.scope",
            "container": "abc",
            "attribution": "kernel",
            "parent": {
                "pid": 20,
                "name": "bash",
                "user": "ubuntu",
                "attribution": "kernel",
                "parent": {"pid": 1, "name": "systemd", "user": "root", "attribution": "kernel"},
            },
        },
    }


def test_flags_are_there_where_they_are_true(tmp_path: Path) -> None:
    given = connection(process=RICH, kernel_socket=True)
    (line,) = written(tmp_path / "log", given)
    found = json.loads(line)
    assert found["kernel_socket"] is found["process"]["cmdline_cut"] is found["process"]["kernel"] is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("é 😀", "é 😀"),
        ('a"b', 'a"b'),
        ("a\\b", "a\\\\b"),
        ("a\nb", "a\\nb"),
        ("\x1b[31m\u202e", "\\u001b[31m\\u202e"),
        ("\udcff", "\\udcff"),
        ("\\udcff", "\\\\udcff"),
    ],
)
def test_text_is_as_in_other_outputs(tmp_path: Path, text: str, value: str) -> None:
    (line,) = written(tmp_path / "log", connection(thread=text, dest_names=(text,)))
    assert line.isprintable()
    assert json.loads(line)["thread"] == value
    assert json.loads(line)["dest_names"] == [value]


def test_secrets_are_hidden_unless_asked_for(tmp_path: Path) -> None:
    """Also those of ancestors."""
    parent = Process(pid=1, cmdline="sh -c 'mysql --password=hunter2'")
    given = connection(process=Process(pid=2, cmdline="curl --token hunter2", parent=parent))
    (line,) = written(tmp_path / "log", given)
    assert "hunter2" not in line and line.count("***") == 2
    output = Json(JsonOptions(file=str(tmp_path / "all"), redact=False))
    output.open(Context(Losses(), print, print))
    output.write([given])
    output.close()
    assert (tmp_path / "all").read_text().count("hunter2") == 2


def test_file_gets_whole_batches_and_follows_reopen(tmp_path: Path) -> None:
    path = tmp_path / "egress.json"
    output = Json(JsonOptions(file=str(path)))
    with pytest.raises(OutputError):
        output.write([connection()])
    output.open(Context(Losses(), print, print))
    output.write([connection(src_port=port) for port in range(1, 1001)])
    path.rename(tmp_path / "old")
    output.reopen()
    output.write([])
    output.write([connection(src_port=9)])
    output.close()
    output.close()
    old = [json.loads(line) for line in (tmp_path / "old").read_text().splitlines()]
    assert [found["src_port"] for found in old] == list(range(1, 1001))
    assert json.loads(path.read_text())["src_port"] == 9


def test_full_disk_is_an_error() -> None:
    output = Json(JsonOptions(file="/dev/full"))
    output.open(Context(Losses(), print, print))
    with pytest.raises(OutputError, match="ENOSPC"):
        output.write([connection()])
    output.close()


PATIENCE_S = 60
PORT = 20000 + os.getpid() % 40000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_real_audit_writes_what_the_schema_says(tmp_path: Path) -> None:
    """By eBPF, of programs with hostile names; after a SIGHUP that can't open a file anew it goes on in the old one."""
    made = subprocess.run(
        [sys.executable, "-m", "pyegress", "schema"], capture_output=True, check=True, timeout=PATIENCE_S
    )
    rules = json.loads(made.stdout)
    jsonschema.Draft202012Validator.check_schema(rules)
    validator = jsonschema.Draft202012Validator(rules)
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    reading, writing = os.pipe()
    command = [
        *(sys.executable, "-m", "pyegress", "run", "--ebpf", "--ready-fd", str(writing)),
        *("-I", "ebpf:attach:cgroup", "-I", "ebpf:window:0", "-I", f"ebpf:only-port:{PORT}"),
        *(
            "-o",
            "json",
            "-O",
            f"json:file:{folder}/json",
            "-o",
            "logfmt",
            "-O",
            f"logfmt:file:{folder}/logfmt",
        ),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=[writing]) as audit:
        os.close(writing)
        assert audit.stderr is not None
        try:
            with os.fdopen(reading) as ready:
                assert ready.read() == "ready\n", audit.stderr.read()
            send("named", "a\\xff\\n\\x1b[31m", "udp", "198.18.0.1", PORT)
            send("named", "curl", "tcp", "2001:db8::1", PORT)
            while "curl" not in audit.stderr.readline():
                pass
            folder.rename(moved)
            audit.send_signal(signal.SIGHUP)
            refused = [audit.stderr.readline() for _ in range(2)]
            send("named", "wget", "udp", "198.18.0.2", PORT)
            while "wget" not in audit.stderr.readline():
                pass
        finally:
            audit.terminate()
            audit.stderr.read()
    assert audit.returncode == 0
    assert sorted(refused) == [
        f"pyegress: cannot open {folder}/{name}: No such file or directory (ENOENT)\n"
        for name in ("json", "logfmt")
    ]
    lines = (moved / "json").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for line in found:
        validator.validate(line)
    assert [(line["protocol"], line["dest_ip"], line["process"]["name"]) for line in found] == [
        ("udp", "198.18.0.1", "a\\udcff\\n\\u001b[31m"),
        ("tcp", "2001:db8::1", "curl"),
        ("udp", "198.18.0.2", "wget"),
    ]
    assert all(line["process"]["parent"]["pid"] == os.getpid() for line in found)
    assert len((moved / "logfmt").read_text().splitlines()) == 3
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found[0], "dest_port": None})

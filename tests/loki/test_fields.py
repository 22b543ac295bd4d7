# SPDX-License-Identifier: MIT
"""What is told of a connection beside its line."""

from __future__ import annotations

import json
from typing import Any

from pyegress.loki.fields import LABELS, NAMES, VALUE_BYTES, Fields
from pyegress.record import Connection, Process

SHELL = Process(pid=20, comm="sh", parent=Process(pid=1, name="systemd"))
CURL = Process(
    pid=300,
    comm="curl",
    name="curl",
    exe="/usr/bin/curl",
    cmdline="curl x",
    script="s.py",
    uid=0,
    user="root",
    unit="a.service",
    user_unit="b.service",
    slice="c.slice",
    login_session="3",
    container="0123",
    container_engine="podman",
    container_name="web",
    pod="0a-1b",
    kernel=True,
    parent=SHELL,
)


def connection(**changes: Any) -> Connection:
    given: dict[str, Any] = {
        "ts": 1, "hook": "ebpf", "protocol": "tcp", "ip_version": 4, "dest_ip": "192.0.2.1", "dest_port": 443,
    }  # fmt: skip
    return Connection(**(given | changes))


def told(record: Connection, *as_labels: str, redact: bool = True) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and metadata."""
    labels, metadata = Fields(frozenset(as_labels), redact).of(record)
    return json.loads("{" + labels[1:] + "}"), json.loads("{" + metadata[1:] + "}")


def test_all_fields() -> None:
    """Each has its name, and all is text."""
    record = connection(
        protocol="udp", count=7, src_ip="192.0.2.9", src_port=5000, result="ENETUNREACH", direction="in",
        ifname="eth0", netns=99, process=CURL, thread="worker", attribution="kernel", kernel_socket=True,
        dest_names=("a.example", "b.example"), dest_name_sources=("dns", "hosts"), dest_name_ages=(10, 0),
        dest_names_missing="no-answer", verdict="drop",
    )  # fmt: skip
    labels, metadata = told(record)
    assert labels == {}
    assert metadata == {
        "hook": "ebpf",
        "protocol": "udp",
        "destip": "192.0.2.1",
        "destport": "443",
        "process": "curl",
        "pid": "300",
        "user": "root",
        "uid": "0",
        "exe": "/usr/bin/curl",
        "cmdline": "curl x",
        "script": "s.py",
        "parent": "sh",
        "grandparent": "systemd",
        "unit": "a.service",
        "user_unit": "b.service",
        "slice": "c.slice",
        "login_session": "3",
        "container": "0123",
        "container_name": "web",
        "container_engine": "podman",
        "pod": "0a-1b",
        "kernel": "true",
        "srcip": "192.0.2.9",
        "result": "ENETUNREACH",
        "direction": "in",
        "ifname": "eth0",
        "netns": "99",
        "kernel_socket": "true",
        "thread": "worker",
        "attribution": "kernel",
        "destnames": "a.example,b.example",
        "destnamesources": "dns,hosts",
        "destnamesmissing": "no-answer",
        "destnameages": "10,0",
        "verdict": "drop",
        "srcport": "5000",
        "count": "7",
    }
    assert set(metadata) == set(NAMES)
    labels, metadata = told(record, *LABELS)
    assert set(labels) == set(LABELS)
    assert metadata == {"srcport": "5000", "count": "7"}


def test_what_is_not_known_is_left_out() -> None:
    """No field is empty, also as a label."""
    labels, metadata = told(connection(dest_port=None, process=Process(exe="")), "process", "destport", "exe")
    assert labels == {}
    assert metadata == {"hook": "ebpf", "protocol": "tcp", "destip": "192.0.2.1"}
    assert told(connection())[1].keys() == {"hook", "protocol", "destip", "destport"}


def test_hostile_text() -> None:
    """As `display` shows it, valid UTF-8, within bounds, wherever it is cut."""
    for text in ('a"b\\c\n\x1b[31m\u202e', "\udcff" * 5000, "é" * 5000, "x\U0001f600" * 5000, '"' * 5000):
        labels, metadata = told(connection(process=Process(name=text, cmdline=text)), "process")
        for value in (labels["process"], metadata["cmdline"]):
            assert value.isprintable()
            assert len(value.encode()) <= VALUE_BYTES
    assert told(connection(process=Process(name='a"\\\n\udcff')))[1]["process"] == 'a"\\\\\\n\\udcff'


def test_secrets_in_arguments_are_hidden_unless_asked_for() -> None:
    """Before anything is cut, where half a secret would not be known as one."""
    process = Process(cmdline="x --password=geheim", script="http://u:geheim@h/s.js")
    assert "geheim" not in str(told(connection(process=process)))
    assert told(connection(process=process), redact=False)[1]["cmdline"] == "x --password=geheim"


def test_a_kept_text_is_not_given_to_another() -> None:
    """Processes that were freed lend nothing to those that come after them."""
    fields = Fields(frozenset(), redact=True)
    for number in range(20_000):
        metadata = fields.of(connection(process=Process(pid=number))).metadata
        assert f'"pid":"{number}"' in metadata

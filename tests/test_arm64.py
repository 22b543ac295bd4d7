# SPDX-License-Identifier: MIT
"""pyegress on an arm64 kernel: its object loads, every kind of hook attaches and tells who connects where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import arm64
from tests.guest import Unavailable

KINDS = ("fentry", "kprobe", "cgroup")
TRAFFIC = """
import socket
for family, kind, *to in (
    (socket.AF_INET, socket.SOCK_STREAM, "198.18.0.1", 4443),
    (socket.AF_INET6, socket.SOCK_STREAM, "2001:db8::1", 4444),
    (socket.AF_INET, socket.SOCK_DGRAM, "198.18.0.2", 53),
    (socket.AF_INET6, socket.SOCK_DGRAM, "2001:db8::2", 54),
):
    own = socket.socket(family, kind)
    try:
        own.sendto(b"", tuple(to)) if kind == socket.SOCK_DGRAM else own.connect(tuple(to))
    except ConnectionRefusedError:
        pass
"""
SCRIPT = f"""
ip route add local 198.18.0.0/15 dev lo
ip -6 route add local 2001:db8::/32 dev lo
mkfifo /tmp/ready
for kind in {" ".join(KINDS)}; do
echo "attach $kind"
python3 -m pyegress run -i ebpf -I ebpf:attach:$kind -o json -O json:file:/tmp/$kind --ready-fd 9 9>/tmp/ready &
read word </tmp/ready
python3 /app/traffic.py
kill -INT $!
wait $!
echo "status $?"
cat /tmp/$kind
done
echo "links $(bpftool link | wc -l)"
"""


def test_every_kind_of_hook_on_arm64(tmp_path: Path) -> None:
    app = tmp_path / "app"
    try:
        machine = arm64.machine()
        arm64.package(machine, app)
    except Unavailable as error:
        pytest.skip(f"no arm64 guest: {error}")
    (app / "traffic.py").write_text(TRAFFIC)
    said = arm64.boot(machine, SCRIPT, app, tmp_path, timeout_s=600)
    lines = said.splitlines()
    assert [line for line in lines if line.startswith(("attach ", "status ", "links "))] == [
        *(line for kind in KINDS for line in (f"attach {kind}", "status 0")),
        "links 0",
    ], said
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(r["protocol"], r["dest_ip"], r["dest_port"]) for r in records] == [
        ("tcp", "198.18.0.1", 4443),
        ("tcp", "2001:db8::1", 4444),
        ("udp", "198.18.0.2", 53),
        ("udp", "2001:db8::2", 54),
    ] * len(KINDS)
    assert {(r["process"]["script"], r["attribution"]) for r in records} == {("/app/traffic.py", "kernel")}

# SPDX-License-Identifier: MIT
"""`pyegress doctor` as a user runs it: on this host, without rights, in a container that lacks most things."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pyegress.doctor.examination import Examination
from tests.doctor.checking import NO_RIGHTS, ROOT, can_run, examined, in_mounts, needs_root, of, run

DOCTOR = [sys.executable, "-m", "pyegress", "doctor"]


@needs_root
def test_on_this_host() -> None:
    """What it will use is what a run uses, and the text is the JSON's."""
    report = examined()
    assert report.works and report.hooks is not None
    told = run(sys.executable, "-m", "pyegress", "run", "-t", "100ms", "--debug")
    assert told.returncode == 0, told.stderr
    attached = [kind for kind in ("fentry", "kprobe", "cgroup") if f"ebpf: {kind}: " in told.stderr]
    assert attached[-1] == report.hooks
    assert of(report, report.hooks).state in ("works", "limited")
    done = run(*DOCTOR)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == f"pyegress will use {report.hooks}"
    assert [line.split()[:2] for line in lines[:-1] if not line.startswith(" ")] == [
        [one.name, one.state] for one in report.findings
    ]


@needs_root
def test_without_any_rights() -> None:
    """Each line says what is missing; nothing works that needs rights, and there is no traceback."""
    if not can_run(*NO_RIGHTS):
        pytest.skip("the interpreter can't be read by all")
    report = examined(*NO_RIGHTS)
    assert not report.works and report.hooks is None
    assert report.verdict.startswith("nothing attaches: missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF")
    for name in ("CAP_BPF", "fentry", "kprobe", "cgroup", "nflog", "nfqueue", "pcap", "ring-buffer"):
        assert of(report, name).state == "fails" and of(report, name).remedy
    for name in ("sock-diag-tcp", "sock-diag-udp", "kernel"):
        assert of(report, name).state == "works"
    done = run(*NO_RIGHTS, *DOCTOR)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == report.verdict


@needs_root
def test_in_a_bare_container() -> None:
    """Without /sys, its cgroups and the programs for firewalls all checks still end in their findings."""
    report = examined(*in_mounts("mount -t tmpfs none /sys; mount -t tmpfs none /run"))
    assert not report.works
    assert "no BTF" in report.verdict
    assert {one.name for one in report.findings if one.state == "fails"} >= {
        "btf",
        "cgroup-v2",
        "fentry",
        "cgroup",
    }
    assert of(report, "lockdown").state == "unknown"
    assert not [one for one in report.findings if "the check itself failed" in one.detail]


@needs_root
def test_nothing_is_left() -> None:
    """No module of a firewall has a queue or a group in use, and no file system holds a program."""
    before = {
        path: Path(path).read_text()
        for path in ("/proc/self/mountinfo", "/proc/net/ip_tables_names")
        if Path(path).exists()
    }
    done = run(
        "unshare",
        "--net",
        "sh",
        "-c",
        '"$@" >/dev/null; cat /proc/net/netfilter/nfnetlink_queue '
        "/proc/net/netfilter/nfnetlink_log; nft list ruleset",
        "sh",
        *DOCTOR,
    )
    assert done.stdout == ""
    assert before == {path: Path(path).read_text() for path in before}


def test_on_a_terminal() -> None:
    """There it has colours, and not where its output is piped."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {
        "TERM": "xterm"
    }
    with subprocess.Popen(DOCTOR, cwd=ROOT, stdin=theirs, stdout=theirs, env=environment) as program:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the other end was closed
            pass
    os.close(ours)
    assert program.returncode in (0, 1)
    assert b"\x1b[32mworks" in shown
    assert "\x1b" not in run(*DOCTOR).stdout


def test_json_is_one_object() -> None:
    """Whoever runs it: one object, and nothing else on stdout."""
    done = run(*DOCTOR, "--json")
    report = msgspec.json.decode(done.stdout, type=Examination)
    assert done.returncode == (0 if report.works else 1)

# SPDX-License-Identifier: MIT
"""Kernels that refuse: one line with the cause and the way on, exit 1; and what still works there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import traffic
from tests.kernel.observing import made, observe

PYEGRESS = [sys.executable, "-m", "pyegress"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command that must end by itself."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """A shell line in its own mount namespace."""
    return run("unshare", "-m", "sh", "-c", script.replace("PYEGRESS", " ".join(PYEGRESS)))


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr with these words, nothing on stdout, exit 1."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.guest("6.12", append="lockdown=confidentiality")
def test_case_17_lockdown_is_named() -> None:
    """Confidentiality mode is named as the cause."""
    assert_refused(run(*PYEGRESS, "run", "-i", "ebpf"), "lockdown", "confidentiality")


@pytest.mark.guest("6.12", append="lockdown=confidentiality")
def test_case_17_lockdown_is_named_without_securityfs() -> None:
    """It is named even where the state file can't be seen."""
    done = shell(
        "umount -l /sys/kernel/security; test ! -e /sys/kernel/security/lockdown && exec PYEGRESS run -i ebpf"
    )
    assert_refused(done, "lockdown")


@pytest.mark.guest("6.12", append="ipv6.disable=1")
@pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
@pytest.mark.usefixtures("routes")
def test_host_without_ipv6_is_observed(kind: str) -> None:
    """With IPv6 switched off IPv4 is seen as ever."""
    seen, _ = made(kind, "tcp", "192.0.2.1", 7)
    assert seen.destinations() == [("tcp", "192.0.2.1", 7)]


@pytest.mark.guest("5.10")
def test_case_18_memlock_is_raised() -> None:
    """Before 5.11 BPF memory counts as locked: the limit is raised where that is allowed."""
    done = run("prlimit", "--memlock=65536", *PYEGRESS, "run", "-i", "ebpf", "-t", "100ms")
    assert done.returncode == 0, done.stderr


@pytest.mark.guest("5.10")
def test_case_18_memlock_is_named() -> None:
    """Where it isn't allowed, the limit is named, not the lack of root."""
    done = run(
        *(
            "prlimit",
            "--memlock=65536",
            "setpriv",
            "--bounding-set=-sys_resource",
            "--inh-caps=-sys_resource",
        ),
        *(*PYEGRESS, "run", "-i", "ebpf", "-t", "100ms"),
    )
    assert_refused(done, "RLIMIT_MEMLOCK")


@pytest.mark.guest("5.10", "6.1", "6.12")
def test_case_19_no_btf_is_named() -> None:
    """A kernel without BTF is refused with that reason; an empty folder is the same."""
    assert_refused(
        shell("mount -t tmpfs none /sys/kernel/btf; exec PYEGRESS run -i ebpf"),
        "BTF",
        "CONFIG_DEBUG_INFO_BTF",
    )


@pytest.mark.guest("5.10")
@pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
@pytest.mark.usefixtures("routes")
def test_oldest_kernel(kind: str) -> None:
    """5.10 takes all three kinds of hooks."""
    seen = observe(kind, lambda: traffic.run("udpaddrs", 9, "192.0.2.1", "2001:db8::1"))
    assert seen.destinations() == [("udp", "192.0.2.1", 9), ("udp", "2001:db8::1", 9)]
    (connect,) = observe(kind, lambda: traffic.run("tcp", "192.0.2.1", 7))
    process = connect.process
    assert process is not None and process.parent is not None
    assert (process.name, process.exe) == ("traffic", str(traffic.traffic()))
    assert process.cmdline == f"{traffic.traffic()} tcp 192.0.2.1 7"
    assert (process.parent.pid, process.attribution) == (os.getpid(), "kernel")


@pytest.mark.guest("5.10")
@pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
@pytest.mark.usefixtures("routes")
def test_oldest_kernel_and_a_name_that_got_shorter(kind: str) -> None:
    """Before 5.17 the rest of the longer name stays behind the new one's end; it is no part of it."""
    seen, _ = made(kind, "renamed", "192.0.2.1", 7, b"tr".hex(), ignore_comm=("tr",))
    assert seen == []
    seen, _ = made(kind, "renamed", "192.0.2.1", 7, b"tr".hex(), only_comm=("tr",))
    assert [c.process.comm for c in seen if c.process] == ["tr"]


@pytest.mark.guest("6.1", "6.12")
def test_audit_as_a_user_runs_it(tmp_path: Path, routes: None) -> None:
    """The program attaches by fentry, says when it is ready, writes both outputs and leaves nothing behind."""
    log = tmp_path / "log"
    before = run("bpftool", "link").stdout
    ready, says_ready = os.pipe()
    command = [
        *PYEGRESS,
        "run",
        "-i",
        "ebpf",
        "--ebpf",
        "-o",
        "logfmt",
        "-O",
        f"logfmt:file:{log}",
        "-o",
        "iptables",
        "-C",
        "2",
    ]
    with subprocess.Popen(
        [*command, "--ready-fd", str(says_ready)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[says_ready],
    ) as program:
        os.close(says_ready)
        assert os.read(ready, 100) == b"ready\n"
        os.close(ready)
        traffic.run("tcp", "192.0.2.1", 443)
        traffic.run("udp", "2001:db8::1", 53)
        out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    lines = log.read_text().splitlines()
    assert [line.split(" proc_pid")[0].partition(" ")[2] for line in lines] == [
        "hook=ebpf protocol=tcp dest_ip=192.0.2.1 dest_port=443 ip_version=4 proc_name=traffic",
        "hook=ebpf protocol=udp dest_ip=2001:db8::1 dest_port=53 ip_version=6 proc_name=traffic",
    ]
    assert out.splitlines() == [
        'iptables -I OUTPUT -d 192.0.2.1 -p tcp -m tcp --dport 443 -j ACCEPT -m comment --comment "traffic"',
        'ip6tables -I OUTPUT -d 2001:db8::1 -p udp -m udp --dport 53 -j ACCEPT -m comment --comment "traffic"',
    ]
    assert run("bpftool", "link").stdout == before

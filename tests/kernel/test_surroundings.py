# SPDX-License-Identifier: MIT
"""Attribution where a host is set up in another way: cgroup v1, hidden /proc, the kernel's own connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.record import Process
from tests import traffic
from tests.kernel.observing import Watch, in_cgroup, observe, run_in

pytestmark = pytest.mark.usefixtures("routes")
both = pytest.mark.guest("6.1", "6.12")

V4 = "192.0.2.1"
SHORT = str(traffic.short())
kinds = pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
traced = pytest.mark.parametrize("kind", ["fentry", "kprobe"])


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """A mount, undone in the end."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(arguments[-1])], check=True)


def process_in_v1(kind: str, controller: str, root: Path) -> Process:
    """The process of a program that is in a cgroup of that v1 hierarchy, and in none of the unified one."""
    with (
        mounted("-t", "cgroup", "-o", controller, "none", root),
        in_cgroup("system.slice/old.service", root) as cgroup,
    ):
        seen = observe(kind, lambda: run_in(cgroup, SHORT, "udp", V4, "7"))
    (process,) = [c.process for c in seen if c.dest_ip == V4]
    assert process is not None
    return process


@both
@kinds
def test_unit_by_cgroup_v1(kind: str, tmp_path: Path) -> None:
    """Where the unified hierarchy has no place for a process, that of `pids` tells it."""
    process = process_in_v1(kind, "pids", tmp_path)
    assert (process.cgroup, process.unit) == ("/system.slice/old.service", "old.service")


@pytest.mark.guest("6.1")  # the newer one is built without CONFIG_MEMCG_V1
@kinds
def test_unit_by_cgroup_v1_of_memory(kind: str, tmp_path: Path) -> None:
    """Or that of `memory`."""
    process = process_in_v1(kind, "memory", tmp_path)
    assert (process.cgroup, process.unit) == ("/system.slice/old.service", "old.service")


@both
@kinds
def test_proc_that_hides_others(kind: str) -> None:
    """CASES 65: the event is kept, what only /proc has is unknown, and one warning names both causes."""
    code = (
        "import subprocess, sys\n"
        "from tests import traffic\n"
        "from tests.kernel.observing import Watch\n"
        "def lower():\n"
        "    import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        f"with Watch({kind!r}) as watch:\n"
        "    for _ in range(2):\n"
        f"        line = [traffic.traffic(), 'argsout', {V4!r}, '7', 'hidden']\n"
        "        with subprocess.Popen(line, preexec_fn=lower, stdin=-1, stdout=-1, text=True) as process:\n"
        "            process.stdout.readline()\n"
        "            (connection,) = watch.wait_for(process.pid)\n"
        "            print(connection.process.name, connection.process.uid, connection.process.cmdline)\n"
        "            print(connection.attribution)\n"
        "            process.communicate('')\n"
        "print(*[notice for notice in watch.notices if '/proc' in notice], sep='\\n')\n"
    )
    script = 'mount -t proc -o hidepid=2 none /proc && exec setpriv --bounding-set=-sys_ptrace "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    *facts, warning = done.stdout.splitlines()
    assert facts == ["traffic 65534 None", "kernel: without arguments or path, no permission"] * 2
    assert "CAP_SYS_PTRACE" in warning and "hidepid" in warning


@both
@kinds
def test_the_kernels_own_client(kind: str, tmp_path: Path) -> None:
    """NFS connects from a kernel thread, which has neither file nor arguments."""
    options = f"addr={V4},clientaddr={V4},soft,timeo=1,retrans=1"
    with Watch(kind) as watch:
        line = ["mount", "-i", "-t", "nfs4", "-o", options, f"{V4}:/", str(tmp_path)]
        with subprocess.Popen(line, stderr=subprocess.DEVNULL) as mount:
            connection = watch.wait_until(lambda c: c.dest_port == 2049)
            mount.kill()
    assert connection.kernel_socket and connection.socket_uid == 0
    process = connection.process
    assert process is not None and process.kernel
    assert process.name == "kworker" and process.comm is not None and process.comm.startswith("kworker/")
    assert (process.exe, process.cmdline) == (None, None)
    assert process.parent is not None and process.parent.name == "kthreadd" and process.parent.parent is None
    assert connection.attribution == "kernel"


@both
@kinds
def test_the_kernels_client_in_a_programs_name(kind: str, tmp_path: Path) -> None:
    """CIFS connects in the name of who mounts, by a socket of the kernel's."""
    line = ["mount", "-i", "-t", "cifs", "-o", f"ip={V4},username=a,password=b", f"//{V4}/x", str(tmp_path)]
    seen = observe(kind, lambda: subprocess.run(line, capture_output=True, timeout=60))
    found = [c for c in seen if c.dest_port == 445]
    assert found
    for connection in found:
        assert connection.kernel_socket and connection.socket_uid is None
        assert connection.process is not None and not connection.process.kernel
        assert connection.process.name == "mount"


@both
@traced
def test_mptcp_is_the_programs(kind: str) -> None:
    """The kernel's socket below an MPTCP connection is the program's doing."""
    code = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n"
        f"client.connect_ex(({V4!r}, 7))\n"
    )
    pids: list[int] = []

    def act() -> None:
        child = subprocess.Popen([sys.executable, "-c", code])
        assert child.wait(60) == 0
        pids.append(child.pid)

    (connection,) = observe(kind, act).of(pids[0])
    assert (connection.protocol, connection.dest_port, connection.kernel_socket) == ("tcp", 7, False)
    assert connection.socket_uid == 0


@both
@traced
def test_io_uring_worker_is_its_programs(kind: str) -> None:
    """A worker thread's connection has the program's name, path and arguments."""
    truth: dict[str, str] = {}
    seen = observe(kind, lambda: truth.update(traffic.words(traffic.run("iouring", V4, 7, "--async").stdout)))
    (connection,) = seen.of(int(truth["pid"]))
    process = connection.process
    assert process is not None and not process.kernel
    assert (process.name, process.exe) == ("traffic", str(traffic.traffic()))
    assert process.cmdline == f"{traffic.traffic()} iouring {V4} 7 --async"
    assert connection.thread is not None and connection.thread.startswith("iou-wrk-")


@both
@traced
def test_function_tracing_that_is_switched_off_for_a_while(kind: str) -> None:
    """Nothing is seen, which is said; what comes after is seen again."""
    switch = Path("/proc/sys/kernel/ftrace_enabled")
    with Watch(kind) as watch:
        switch.write_text("0")
        try:
            subprocess.run([SHORT, "udp", V4, "7"], check=True)
            watch.refresh()
        finally:
            switch.write_text("1")
        watch.refresh()
        said = [notice for notice in watch.notices if "tracing" in notice]
        with subprocess.Popen([SHORT, "udp", V4, "8"]) as process:
            pass
        watch.wait_for(process.pid)
        assert not [c for c in watch.all() if c.dest_port == 7]
    assert said == [
        "ebpf: nothing is seen: function tracing is switched off: sysctl kernel.ftrace_enabled=1",
        "ebpf: function tracing is on again: what was not seen before is not counted",
    ]

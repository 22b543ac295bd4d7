# SPDX-License-Identifier: MIT
"""Filters by process, in the kernel: what they hide, how soon, and what they let through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import traffic
from tests.kernel.observing import Observed, Watch, child, in_cgroup, made, observe, run_in

pytestmark = [pytest.mark.guest("6.1", "6.12"), pytest.mark.usefixtures("routes")]
kinds = pytest.mark.parametrize("kind", ["fentry", "kprobe", "cgroup"])
one_kind = pytest.mark.parametrize("kind", ["kprobe"])
"""For what is decided after all hooks have come together."""

V4 = "192.0.2.1"
TRAFFIC = str(traffic.traffic())
SHORT = str(traffic.short())


def udp(port: int) -> str:
    """One datagram of the traffic program."""
    return traffic.run("udp", V4, port, 1).stdout


def there(seen: Observed) -> list[int | None]:
    """Ports of what was seen at our address."""
    return [c.dest_port for c in seen if c.dest_ip == V4]


def skipped(seen: Observed) -> dict[str, int]:
    """How many events each rule hid."""
    return {reason: count for (stage, reason), count in seen.losses.snapshot().items() if stage == "skipped"}


@one_kind
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"ignore_comm": ("traffic",)}, "by ignore-comm:traffic"),
        ({"ignore_comm": ("traf*",)}, "by ignore-comm:traf*"),
        ({"ignore_exe": (TRAFFIC,)}, f"by ignore-exe:{TRAFFIC}"),
        ({"ignore_cmdline": (f"udp {V4}",)}, f"by ignore-cmdline:udp {V4}"),
        ({"ignore_parent": ("python*",)}, "by ignore-parent:python*"),
        ({"ignore_user": ("root",)}, "by ignore-user:root"),
        ({"ignore_user": ("0",)}, "by ignore-user:0"),
        ({"only_comm": ("wget",)}, "outside only-comm"),
        ({"only_exe": ("/usr/bin/*",)}, "outside only-exe"),
        ({"only_user": ("1",)}, "outside only-user"),
        ({"only_ancestor": ("wget",)}, "outside only-ancestor"),
    ],
)
def test_hidden(kind: str, options: dict[str, tuple[str, ...]], rule: str) -> None:
    """Each event of such a process is hidden, and counted under the rule."""
    seen = observe(kind, lambda: (udp(7), udp(8)), **options)
    assert there(seen) == []
    assert skipped(seen)[rule] == 2


@one_kind
@pytest.mark.parametrize(
    "options",
    [
        {"ignore_comm": ("traffi",)},
        {"ignore_exe": ("traffic",)},
        {"only_comm": ("traffic",)},
        {"only_exe": ("*/traffic",)},
        {"only_cmdline": (V4,)},
        {"only_user": ("root", "1")},
        {"only_parent": ("python*", "pytest")},
        {"only_comm": ("wget", "traffic"), "ignore_user": ("1",)},
    ],
)
def test_let_through(kind: str, options: dict[str, tuple[str, ...]]) -> None:
    """What no rule hides is reported."""
    assert there(observe(kind, lambda: udp(7), **options)) == [7]


@kinds
@pytest.mark.parametrize("options", [{"ignore_comm": ("tra*",)}, {"only_cmdline": ("wget",)}])
def test_a_verdict_reaches_the_kernel(kind: str, options: dict[str, tuple[str, ...]]) -> None:
    """A pattern is decided once: after that the kernel sends no more of the process, however much it does."""
    with Watch(kind, window=0, **options) as watch, traffic.held("hold", V4, 7) as (process, _):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def send() -> None:
            stdin.write("\n")
            stdin.flush()
            stdout.readline()

        for _ in range(1000):
            if watch.counters()["skipped_process"]:
                break
            send()
        before = watch.counters()
        for _ in range(50):
            send()
        after = watch.counters()
        assert before["skipped_process"] > 0
        assert after["skipped_process"] == before["skipped_process"] + 50
        assert after["reported"] == before["reported"]


@kinds
def test_an_exec_asks_for_a_new_verdict(kind: str) -> None:
    """The same process, another program: what held for the first does not hold for the second."""
    seen = observe(
        kind, lambda: traffic.run("execafter", V4, 7, SHORT, "udp", V4, 8), ignore_exe=("*/traf?ic",)
    )
    assert there(seen) == [8]


@kinds
def test_who_drops_rights_is_judged_anew(kind: str) -> None:
    """A rule for root hides what it did as root, and no more."""
    seen, _ = made(kind, "setuid", V4, 7, 65534, ignore_user=("root",))
    assert there(seen) == [8]


@one_kind
def test_a_name_is_the_whole_name(kind: str, tmp_path: Path) -> None:
    """A name longer than the kernel's 15 bytes is matched as a whole, and so is none that only begins like it."""
    for name in ("averyveryverylongname", "averyveryverylongerone"):
        shutil.copy(SHORT, tmp_path / name)
    seen = observe(
        kind,
        lambda: [
            subprocess.run([tmp_path / name, "udp", V4, port], check=True)
            for name, port in (("averyveryverylongname", "7"), ("averyveryverylongerone", "8"))
        ],
        ignore_comm=("averyveryverylongname",),
    )
    assert there(seen) == [8]


@one_kind
def test_a_threads_name_does_not_decide(kind: str) -> None:
    """A thread that calls itself so is still its program."""
    seen, _ = made(kind, "renamedthread", V4, 7, b"worker".hex(), ignore_comm=("worker",))
    assert there(seen) == [7]
    seen, _ = made(kind, "renamedthread", V4, 7, b"worker".hex(), ignore_comm=("traffic",))
    assert there(seen) == []


@kinds
def test_unit_of_a_process(kind: str) -> None:
    """The cgroup's path gives the systemd unit and slice, from the first event of the cgroup."""
    with in_cgroup("system.slice/nginx.service") as cgroup:
        seen = [c for c in observe(kind, lambda: run_in(cgroup, SHORT, "udp", V4, "7")) if c.dest_ip == V4]
        (process,) = [c.process for c in seen]
        assert process is not None
        assert process.cgroup == "/system.slice/nginx.service"
        assert (process.unit, process.slice) == ("nginx.service", "system.slice")
        assert process.cgroup_id == cgroup.stat().st_ino


@one_kind
def test_unit_that_has_gone(kind: str) -> None:
    """The path comes with the event: the unit may be gone when it is read."""

    def act() -> None:
        with in_cgroup("system.slice/short.service") as cgroup:
            run_in(cgroup, SHORT, "udp", V4, "7")

    (process,) = [c.process for c in observe(kind, act) if c.dest_ip == V4]
    assert process is not None and process.unit == "short.service"


@kinds
def test_ignored_unit_that_is_there(kind: str) -> None:
    """It is hidden in the kernel from its first event."""
    with (
        in_cgroup("system.slice/nginx.service") as cgroup,
        Watch(kind, ignore_unit=("nginx.service",)) as watch,
    ):
        run_in(cgroup, SHORT, "udp", V4, "7")
        assert watch.counters()["skipped_process"] == 1


@one_kind
def test_ignored_unit_that_comes_later(kind: str) -> None:
    """Its first event tells where it is; once that has come, the kernel drops what else comes from there."""
    with Watch(kind, ignore_unit=("nginx.service",)) as watch:
        with in_cgroup("system.slice/nginx.service") as cgroup:
            sent = 0
            while not watch.counters()["skipped_process"] and sent < 100:
                run_in(cgroup, SHORT, "udp", V4, "7")
                sent += 1
        assert watch.counters()["skipped_process"]
    assert watch.losses.snapshot()["skipped", "by ignore-unit:nginx.service"] == sent
    assert not [c for c in watch.all() if c.dest_ip == V4]


@one_kind
def test_ignored_container(kind: str) -> None:
    """By the beginning of its id."""
    container = "3f4a" * 16
    with in_cgroup(f"system.slice/docker-{container}.scope") as cgroup:

        def act() -> None:
            run_in(cgroup, SHORT, "udp", V4, "7")
            udp(8)

        assert there(observe(kind, act, ignore_container=(container[:12],))) == [8]
        (seen,) = [c for c in observe(kind, act) if c.dest_port == 7]
        assert seen.process is not None
        assert (seen.process.container, seen.process.container_engine) == (container, "docker")


@one_kind
def test_only_a_unit(kind: str) -> None:
    """Everything else is hidden."""
    with in_cgroup("system.slice/nginx.service") as cgroup:

        def act() -> None:
            run_in(cgroup, SHORT, "udp", V4, "7")
            udp(8)

        seen = observe(kind, act, only_unit=("nginx.service",))
    assert there(seen) == [7]
    assert skipped(seen)["outside only-unit"] == 1


@one_kind
def test_parents_name_decides(kind: str) -> None:
    """By the parent's and the grandparent's name."""
    script = f"{SHORT} udp {V4} 7; true"
    for option, pattern in (
        ("ignore_parent", "sh"),
        ("ignore_grandparent", "py*"),
        ("ignore_ancestor", "sh"),
    ):
        seen = observe(kind, lambda: subprocess.run(["sh", "-c", script], check=True), **{option: (pattern,)})
        assert there(seen) == [], option
    assert there(child(kind, SHORT, "udp", V4, "7", ignore_parent=("sh",))) == [7]

# SPDX-License-Identifier: MIT
"""Groups, queues, captures and sockets, tried in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.doctor import packets
from tests.doctor.checking import NO_RIGHTS, ROOT, can_run, descriptors, found, needs_root, nobody_with
from tests.netns import own_netns

pytestmark = needs_root


@pytest.fixture
def netns() -> Iterator[None]:
    """The test runs in one."""
    with own_netns():
        yield


@contextmanager
def held(code: str) -> Iterator[int]:
    """Another process that has what `code` binds; its pid."""
    whole = (
        f"from pyegress.netfilter.log import LogGroup\nfrom pyegress.netfilter.queue import Queue\n{code}\n"
    )
    whole += "print(flush=True)\ninput()\n"
    with subprocess.Popen(
        [sys.executable, "-c", whole], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        try:
            yield process.pid
        finally:
            process.communicate("\n", timeout=60)


def in_use(module: str) -> str:
    """What the kernel lists of this network namespace."""
    return Path("/proc/thread-self/net/netfilter", module).read_text()


@pytest.mark.usefixtures("netns")
def test_nflog() -> None:
    """The first group is had, and nobody has it afterwards."""
    assert packets.nflog("nflog").detail == "group 0 can be had"
    assert in_use("nfnetlink_log") == ""


@pytest.mark.usefixtures("netns")
def test_nflog_that_somebody_has() -> None:
    """The first that nobody has, and who has the others."""
    with held("a, b = LogGroup(0, 65536), LogGroup(2, 65536)") as pid:
        found = packets.nflog("nflog")
        assert len(in_use("nfnetlink_log").splitlines()) == 2
    name = Path(sys.executable).name
    assert found.state == "works"
    assert found.detail == f"group 1 can be had; group 0 is in use by pid {pid} ({name})"


@pytest.mark.usefixtures("netns")
def test_nflog_that_somebody_has_and_we_may_not_know() -> None:
    """Who may not read the list gets the same error as one without rights, and looks on."""
    if not can_run(*nobody_with("net_admin")):
        pytest.skip("the interpreter can't be read by all")
    with held("a = LogGroup(0, 65536)"):
        one = found("packets.nflog", "nflog", *nobody_with("net_admin"))
    assert (one.state, one.detail) == ("works", "group 1 can be had")


@pytest.mark.usefixtures("netns")
def test_nfqueue() -> None:
    """The last queue is tried, which no rule is likely to use, and nobody has it afterwards."""
    assert packets.nfqueue("nfqueue").detail == "queue 65535 can be had"
    assert in_use("nfnetlink_queue") == ""


@pytest.mark.usefixtures("netns")
def test_nfqueue_that_somebody_has() -> None:
    """The one before it."""
    with held("a = Queue(65535, 1, 65536, True)") as pid:
        found = packets.nfqueue("nfqueue")
    assert found.detail.startswith(f"queue 65534 can be had; queue 65535 is in use by pid {pid} (")


@pytest.mark.usefixtures("netns")
def test_all_that_are_tried_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then none can be had, as far as we looked."""
    monkeypatch.setattr(packets, "LOOKED_AT", 2)
    with held("a, b = LogGroup(0, 65536), LogGroup(1, 65536)"):
        found = packets.nflog("nflog")
    assert found.state == "fails" and found.detail.startswith("group 0 is in use by pid ")


def test_without_rights() -> None:
    """Each names the capability that it lacks; a socket of one's own anybody can ask for."""
    before = NO_RIGHTS if can_run(*NO_RIGHTS) else nobody_with("dac_read_search")
    for name, word in (("nflog", "CAP_NET_ADMIN"), ("nfqueue", "CAP_NET_ADMIN"), ("pcap", "CAP_NET_RAW")):
        one = found(f"packets.{name}", name, *before)
        assert one.state == "fails" and word in one.detail and str(one.remedy).startswith("run as root")
    for name in ("tcp", "udp"):
        assert found(f"packets.sock_diag_{name}", name, *before).state == "works"


@pytest.mark.usefixtures("netns")
def test_capture_and_sockets() -> None:
    """They work, and no descriptor stays."""
    before = descriptors()
    assert packets.pcap("pcap").state == "works"
    assert packets.sock_diag_tcp("sock-diag-tcp").state == "works"
    assert packets.sock_diag_udp("sock-diag-udp").state == "works"
    assert descriptors() == before


def test_without_loopback() -> None:
    """A connection that can't be made says nothing of sock_diag."""
    one = found("packets.sock_diag_tcp", "sock-diag-tcp", "unshare", "--net")
    assert (one.state, one.remedy) == ("unknown", "ip link set lo up")

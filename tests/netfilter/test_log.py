# SPDX-License-Identifier: MIT
"""A log group of the real kernel: what is logged arrives, and what doesn't is counted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pyegress.errors import InputError, UnsupportedError
from pyegress.netfilter import holder
from pyegress.netfilter.log import LogGroup
from pyegress.netfilter.messages import Logged
from tests.netns import needs_netfilter, run

pytestmark = [needs_netfilter, pytest.mark.usefixtures("netns")]

GROUP = 100
BUFFER = 1 << 20
LEAST_BUFFER = 4096
UDP_OVER_IPV4, UDP_OVER_IPV6 = 28, 48
LOCAL_OUT = 3


@contextmanager
def bound(buffer_bytes: int = BUFFER) -> Iterator[LogGroup]:
    """The group, open."""
    group = LogGroup(GROUP, buffer_bytes)
    try:
        yield group
    finally:
        group.close()


def log(options: str = "", command: str = "iptables") -> None:
    """Log all UDP to the group."""
    run(f"{command} -A OUTPUT -p udp -j NFLOG --nflog-group {GROUP} {options}")


def send(count: int = 1, size: int = 1, to: str = "198.18.0.1") -> None:
    """Datagrams to a socket that has no room for many, so that nobody says it isn't there."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as receiver,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((to, 9))
        for _ in range(count):
            sender.sendto(bytes(size), (to, 9))


def test_packet_arrives_at_once() -> None:
    """With its headers, owner, hook, interface and number."""
    log()
    with bound() as group:
        send(2, size=100)
        first, second = group.receive()
    assert first._replace(payload=b"") == Logged(
        socket.AF_INET, b"", None, 0, 0, LOCAL_OUT, None, socket.if_nametoindex("lo"), None, 0, None
    )
    assert (first.payload[0], len(first.payload)) == (0x45, UDP_OVER_IPV4 + 100)
    assert second.seq == 1
    assert (group.gaps, group.overruns, group.malformed) == (0, 0, 0)


def test_large_packet_is_copied_in_part() -> None:
    """Headers are enough."""
    log()
    with bound() as group:
        send(size=9000)
        assert [len(packet.payload) for packet in group.receive()] == [512]


def test_both_families_of_one_group() -> None:
    """Each is told by its family and its first nibble."""
    log()
    log(command="ip6tables")
    with bound() as group:
        send(to="127.0.0.1")
        send(to="::1")
        seen = [(packet.family, packet.payload[0], len(packet.payload)) for packet in group.receive()]
    assert seen == [
        (socket.AF_INET, 0x45, UDP_OVER_IPV4 + 1),
        (socket.AF_INET6, 0x60, UDP_OVER_IPV6 + 1),
    ]


@pytest.mark.parametrize(("size", "copied"), [(20, 20), (0, 0), (512, UDP_OVER_IPV4 + 100)])
def test_copy_size_of_the_rule(size: int, copied: int) -> None:
    """A rule may ask for less than the group does: nothing at all is a packet too."""
    log(f"--nflog-size {size}")
    with bound() as group:
        send(size=100)
        assert [len(packet.payload) for packet in group.receive()] == [copied]


def test_packet_logged_by_two_rules() -> None:
    """Both are here, with numbers of their own."""
    log()
    log("--nflog-size 20")
    with bound() as group:
        send()
        assert [(packet.seq, len(packet.payload)) for packet in group.receive()] == [
            (0, UDP_OVER_IPV4 + 1),
            (1, 20),
        ]


def test_prefix() -> None:
    """As the rule has it, without a NUL; hostile characters too."""
    log('--nflog-prefix "pfx "')
    log("--nflog-prefix 'a;$(id)\x1b[31m'")
    with bound() as group:
        send()
        assert [packet.prefix for packet in group.receive()] == ["pfx ", "a;$(id)\x1b[31m"]


def test_rule_with_a_threshold_delivers_at_once() -> None:
    """The lower of the rule's and the group's counts."""
    log("--nflog-threshold 50")
    with bound() as group:
        send()
        assert len(group.receive()) == 1


def test_nft_log_statement() -> None:
    """nft's rules reach a group as iptables' do."""
    run("nft add table inet t; nft 'add chain inet t o { type filter hook output priority 0; }'")
    run(f"nft add rule inet t o meta l4proto udp log prefix '\"nft \"' group {GROUP} snaplen 20")
    with bound() as group:
        send()
        send(to="::1")
        seen = [(packet.family, packet.prefix, len(packet.payload)) for packet in group.receive()]
    assert seen == [(socket.AF_INET, "nft ", 20), (socket.AF_INET6, "nft ", 20)]


def test_overrun_is_counted_and_capture_goes_on() -> None:
    """What the buffer had no room for is known exactly once the next packet has come."""
    log()
    count = 2000
    with bound(LEAST_BUFFER) as group:
        send(count)
        arrived = len(group.receive())
        assert 0 < arrived < count
        assert group.overruns == 1
        send()
        assert len(group.receive()) == 1
        assert group.gaps == count - arrived
        assert group.malformed == 0


def test_many_are_taken_in_parts() -> None:
    """One call is bounded, and nothing of the rest is lost."""
    log()
    with bound(8 << 20) as group:
        send(1500)
        parts = [len(group.receive()), len(group.receive()), len(group.receive())]
        assert parts == [1024, 476, 0]
        assert (group.gaps, group.overruns) == (0, 0)


def test_group_in_use_by_ourselves() -> None:
    """The second names the first's process, and the first goes on."""
    log()
    with bound() as group:
        with pytest.raises(
            InputError, match=rf"^nflog: group {GROUP} is in use by pid {os.getpid()} \(.+\); take"
        ):
            LogGroup(GROUP, BUFFER)
        send()
        assert len(group.receive()) == 1


HOLD = """
import sys
from pyegress.netfilter.log import LogGroup
others = [LogGroup(100 + number, 65536) for number in range(3)]
print("bound", flush=True)
sys.stdin.read()
"""


def test_group_in_use_by_another_process() -> None:
    """Also where its netlink port is not its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"bound\n"
        for number in range(3):
            with pytest.raises(InputError, match=rf"is in use by pid {other.pid} \(python"):
                LogGroup(100 + number, BUFFER)
    LogGroup(100, BUFFER).close()


TRY = """
from pyegress.errors import EgressError
from pyegress.netfilter.log import LogGroup
try:
    LogGroup(100, 65536)
except EgressError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    "without",
    [
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
        ["unshare", "--user", "--map-root-user"],
    ],
    ids=["no capability", "user namespace"],
)
def test_no_permission(without: list[str]) -> None:
    """The kernel says EPERM as for a group in use; the text says which of both it is."""
    command = [*without, sys.executable, "-c", TRY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == (
        "UnsupportedError: nflog: group 100: EPERM: needs CAP_NET_ADMIN over this network namespace; "
        "run as root, for example with sudo\n"
    )


@pytest.fixture
def no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A /proc that lists no nfnetlink_log."""
    monkeypatch.setattr(holder, "NET", holder.NET / "nowhere")


@pytest.mark.usefixtures("no_module")
def test_kernel_without_the_module() -> None:
    """It is named, with how to get it."""
    error = holder.failure(holder.LOG, GROUP, 22)
    assert isinstance(error, UnsupportedError)
    assert str(error) == (
        "nflog: group 100: EINVAL: this kernel has no nfnetlink_log; "
        "try `modprobe nfnetlink_log` (CONFIG_NETFILTER_NETLINK_LOG)"
    )


def test_close_unbinds() -> None:
    """The group is free again, and closing twice is no error."""
    for _ in range(2):
        group = LogGroup(GROUP, BUFFER)
        group.close()
        group.close()


def test_other_processes_can_not_send_to_us() -> None:
    """A forged message does not reach the group's socket."""
    with bound() as group:
        listed = holder.listed(holder.LOG, GROUP)
        assert listed is not None
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as forger:
            forger.bind((0, 0))
            with suppress(OSError):
                forger.sendto(bytes(64), (listed[1], 0))
        assert group.receive() == []
        assert group.malformed == 0


def test_loss_without_a_later_packet_is_counted() -> None:
    """No number tells of it, but the kernel does; and what came before can still be read."""
    log()
    with bound(LEAST_BUFFER) as group:
        send(100)
        group.stop_filling()
        send(7)
        arrived = 0
        while packets := group.receive():
            arrived += len(packets)
        assert 0 < arrived < 100
        assert group.gaps == 100 - arrived

# SPDX-License-Identifier: MIT
"""A queue of the real kernel: packets wait for verdicts, and what happens to those that it has no room for."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from pyegress.errors import InputError, UnsupportedError
from pyegress.netfilter import holder
from pyegress.netfilter.messages import Queued
from pyegress.netfilter.queue import Queue, Statistics
from tests.netns import needs_netfilter, run

pytestmark = [needs_netfilter, pytest.mark.usefixtures("netns")]

NUMBER = 3
LENGTH = 4096
BUFFER = 8 << 20
LEAST_BUFFER = 4096
LOCAL_OUT = 3
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
ADDRESS = ("198.18.0.1", 9)
PATIENCE_S = 30


@contextmanager
def bound(length: int = LENGTH, buffer_bytes: int = BUFFER, fail_open: bool = False) -> Iterator[Queue]:
    """The queue, open."""
    queue = Queue(NUMBER, length, buffer_bytes, fail_open)
    try:
        yield queue
    finally:
        queue.close()


def enqueue(options: str = "", command: str = "iptables") -> None:
    """Ask the queue about all UDP."""
    run(f"{command} -A OUTPUT -p udp -j NFQUEUE --queue-num {NUMBER} {options}")


class Wire:
    """A sender, and a receiver that tells what was let through."""

    def __init__(self, address: tuple[str, int] = ADDRESS) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.address = address
        self.receiver = socket.socket(family, socket.SOCK_DGRAM)
        self.sender = socket.socket(family, socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        # What waits in a queue counts as not sent yet.
        self.sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 64 << 20)
        self.receiver.bind(address)
        self.receiver.setblocking(False)

    def send(self, *texts: bytes) -> None:
        """A datagram of each; that one is dropped at once is no error here."""
        for text in texts:
            with suppress(PermissionError):
                self.sender.sendto(text, self.address)

    def arrived(self) -> list[bytes]:
        """What has come through so far: lo delivers while the sender, or the verdict, is still at it."""
        texts: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                texts.append(self.receiver.recv(65536))
        return texts

    def close(self) -> None:
        """Close both."""
        self.receiver.close()
        self.sender.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Between two sockets of the namespace."""
    made = Wire()
    yield made
    made.close()


def numbers(count: int) -> list[bytes]:
    """Texts that differ."""
    return [str(number).encode() for number in range(count)]


def test_accept_and_drop(wire: Wire) -> None:
    """Packets wait, and go or go not as they are told, in any order."""
    enqueue()
    with bound() as queue:
        wire.send(*numbers(4))
        packets = queue.receive()
        assert packets[0]._replace(payload=b"") == Queued(
            socket.AF_INET, 1, b"", 0, 0, LOCAL_OUT, None, socket.if_nametoindex("lo"), None, None, None
        )
        assert wire.arrived() == []
        assert queue.statistics() == Statistics(4, 0, 0)
        for packet, accept in (
            (packets[2], True),
            (packets[0], True),
            (packets[1], False),
            (packets[3], True),
        ):
            queue.verdict(packet.packet_id, accept)
        assert wire.arrived() == [b"2", b"0", b"3"]
        assert queue.statistics() == Statistics(0, 0, 0)
    assert (queue.unseen, queue.overruns, queue.malformed, queue.unheard) == (0, 0, 0, 0)


def test_mark_of_the_sender_is_told() -> None:
    """So that pyegress knows its own refusals."""
    enqueue()
    with bound() as queue, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x70796567)
        sender.sendto(b"x", ADDRESS)
        assert queue.receive()[0].mark == 0x70796567


def test_both_families_of_one_queue() -> None:
    """Each is told by its family and its first nibble."""
    enqueue()
    enqueue(command="ip6tables")
    with bound() as queue, ExitStack() as stack:
        for host in ("127.0.0.1", "::1"):
            wire = Wire((host, 9))
            stack.callback(wire.close)
            wire.send(b"x")
            (packet,) = queue.receive()
            assert (packet.family, packet.payload[0] >> 4) == (
                (socket.AF_INET6, 6) if ":" in host else (socket.AF_INET, 4)
            )
            queue.verdict(packet.packet_id, True)
            assert wire.arrived() == [b"x"]


def test_large_packet_is_copied_in_part_and_goes_whole(wire: Wire) -> None:
    """The length of the whole is told."""
    enqueue()
    with bound() as queue:
        wire.send(bytes(9000))
        (packet,) = queue.receive()
        assert (len(packet.payload), packet.cap_len) == (512, 9028)
        queue.verdict(packet.packet_id, True)
        assert wire.arrived() == [bytes(9000)]


def test_full_queue_drops_and_the_kernel_counts(wire: Wire) -> None:
    """Without fail-open: as many as may wait do, the rest is gone; and it goes on afterwards."""
    enqueue()
    with bound(length=10) as queue:
        wire.send(*numbers(25))
        assert queue.statistics() == Statistics(10, 15, 0)
        for packet in queue.receive():
            queue.verdict(packet.packet_id, True)
        wire.send(b"after")
        queue.verdict(queue.receive()[0].packet_id, True)
        assert wire.arrived() == [*numbers(10), b"after"]
    assert queue.statistics() == Statistics(0, 15, 0), "the last counts are kept"


@pytest.mark.parametrize("fail_open", [False, True])
def test_overflow_does_not_end_it(wire: Wire, fail_open: bool) -> None:
    """What finds the buffer full is dropped or let through, counted in both cases; verdicts go on."""
    enqueue()
    count = 2000
    with bound(length=count, buffer_bytes=LEAST_BUFFER, fail_open=fail_open) as queue:
        wire.send(*numbers(count))
        packets = queue.receive()
        unread = count - len(packets)
        assert 0 < unread < count
        assert queue.overruns == 1
        assert len(wire.arrived()) == (unread if fail_open else 0)
        for packet in packets:
            queue.verdict(packet.packet_id, True)
        assert wire.arrived() == numbers(len(packets))
        wire.send(b"after")
        queue.verdict(queue.receive()[0].packet_id, True)
        assert wire.arrived() == [b"after"]
        assert queue.unseen == unread
        assert queue.statistics() == Statistics(0, 0, 0 if fail_open else unread)


def test_fail_open_is_limited_by_the_buffer_alone(wire: Wire) -> None:
    """The kernel doesn't count what passes a queue of full length."""
    enqueue()
    with bound(length=10, fail_open=True) as queue:
        wire.send(*numbers(25))
        assert len(queue.receive()) == 25
        assert wire.arrived() == []


STOPPED = """
import select, sys
from pyegress.netfilter.queue import Queue
queue = Queue(3, 100, 65536, sys.argv[1] == "open")
print("bound", flush=True)
while True:
    select.select([queue], [], [])
    for packet in queue.receive():
        queue.verdict(packet.packet_id, True)
"""


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_stopped_program(wire: Wire, fail: str) -> None:
    """Thousands of packets while it can't run: the documented way, then as before."""
    enqueue()
    count = 5000
    command = [sys.executable, "-c", STOPPED, fail]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"bound\n"
        program.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
        wire.send(*numbers(count))
        passed = len(wire.arrived())
        listed = holder.listed(holder.QUEUE, NUMBER)
        assert listed is not None
        waiting, dropped = listed[2], listed[5]
        if fail == "closed":
            assert (passed, waiting, dropped) == (0, 100, count - 100)
        else:
            assert passed == count - waiting > 0
        program.send_signal(signal.SIGCONT)
        assert waiting == len(wait_for(wire, waiting))
        wire.send(b"after")
        assert wait_for(wire, 1) == [b"after"]
        program.kill()


def wait_for(wire: Wire, count: int) -> list[bytes]:
    """That many datagrams."""
    texts: list[bytes] = []
    while len(texts) < count:
        assert select.select([wire.receiver], [], [], PATIENCE_S)[0], f"{len(texts)} of {count}"
        texts += wire.arrived()
    return texts


@pytest.mark.parametrize("accept", [True, False])
def test_orderly_end(wire: Wire, accept: bool) -> None:
    """What comes after `stop_filling` is decided by the kernel, what waited still by us; nothing is cut off."""
    enqueue()
    with bound() as queue:
        wire.send(b"before")
        queue.stop_filling(accept)
        wire.send(b"after", b"too")
        (packet,) = queue.receive()
        queue.verdict(packet.packet_id, True)
        assert wire.arrived() == ([b"after", b"too"] if accept else []) + [b"before"]
        assert queue.statistics() == Statistics(0, 0 if accept else 2, 0)
        assert queue.receive() == []


def test_loss_just_before_the_end_is_known(wire: Wire) -> None:
    """No later packet is needed to tell it."""
    enqueue()
    count = 2000
    with bound(length=count, buffer_bytes=LEAST_BUFFER, fail_open=True) as queue:
        wire.send(*numbers(count))
        queue.stop_filling(True)
        arrived = len(queue.receive())
        assert 0 < arrived < count
        assert queue.receive() == queue.receive() == []
        assert queue.unseen == count - arrived


def test_close_drops_what_waits(wire: Wire) -> None:
    """As the kernel does when the program dies."""
    enqueue()
    with bound():
        wire.send(b"x")
    assert wire.arrived() == []
    with bound() as queue:
        assert queue.receive() == []
        queue.close()


def test_bypass_of_the_rule(wire: Wire) -> None:
    """While nobody listens packets pass such a rule, and are dropped by others."""
    enqueue()
    wire.send(b"closed")
    run("iptables -F OUTPUT")
    enqueue("--queue-bypass")
    wire.send(b"open")
    assert wire.arrived() == [b"open"]


def test_queue_in_use(wire: Wire) -> None:
    """The second names the first's process, and the first goes on."""
    enqueue()
    with bound() as queue:
        expected = rf"^nfqueue: queue {NUMBER} is in use by pid {os.getpid()} \(.+\); take another number"
        with pytest.raises(InputError, match=expected):
            Queue(NUMBER, LENGTH, BUFFER, False)
        other = "from pyegress.netfilter.queue import Queue; Queue(3, 1, 65536, False)"
        done = subprocess.run(
            [sys.executable, "-c", other], capture_output=True, text=True, check=False, timeout=60
        )
        assert f"queue 3 is in use by pid {os.getpid()} (" in done.stderr
        wire.send(b"x")
        queue.verdict(queue.receive()[0].packet_id, True)
        assert wire.arrived() == [b"x"]


def test_no_permission() -> None:
    """It is told from a queue in use."""
    program = (
        "from pyegress.errors import EgressError\n"
        "from pyegress.netfilter.queue import Queue\n"
        "try:\n    Queue(3, 1, 65536, False)\nexcept EgressError as error:\n    print(error)"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("nfqueue: queue 3: EPERM: needs CAP_NET_ADMIN over this network namespace")


@pytest.mark.parametrize("code", [22, 93])
def test_kernel_without_the_module(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """It is named, whichever part of netlink is missing."""
    monkeypatch.setattr(holder, "NET", holder.NET / "nowhere")
    error = holder.failure(holder.QUEUE, NUMBER, code)
    assert isinstance(error, UnsupportedError)
    assert "nfqueue: queue 3: " in str(error)
    assert "this kernel has no nfnetlink_queue; try `modprobe nfnetlink_queue`" in str(error)


def test_verdict_on_an_unknown_packet() -> None:
    """It is no error: the packet has gone with its interface, for example."""
    with bound() as queue:
        queue.verdict(99, True)
        assert queue.receive() == []
        assert queue.malformed == 0

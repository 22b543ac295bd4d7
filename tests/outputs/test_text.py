# SPDX-License-Identifier: MIT
"""Lines for people: complete, and not to be forged by a process name."""

import time
from collections.abc import Iterator
from threading import Barrier, BrokenBarrierError, Thread

import msgspec
import pytest

from pyegress.losses import Losses
from pyegress.outputs import text
from pyegress.outputs.text import Text, TextOptions, upstream_line
from pyegress.plugin import Context
from pyegress.record import Connection, Process

CURL = Process(pid=300, name="curl", user="ubuntu", parent=Process(pid=20, name="bash"))
TS = 1_700_000_000_123_456_789


@pytest.fixture(autouse=True)
def known_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fixed zone and service table."""
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()

    def service(port: int, protocol: str) -> str:
        names = {(443, "tcp"): "https", (53, "udp"): "domain", (1, "tcp"): "\x1b"}
        if (port, protocol) in names:
            return names[port, protocol]
        raise OSError

    monkeypatch.setattr("socket.getservbyport", service)
    for cache in (text._service, text._clock):
        cache.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    for cache in (text._service, text._clock):
        cache.cache_clear()


TCP = Connection(TS, "ebpf", "tcp", 4, "146.148.13.123", 443, process=CURL)
FULL = Connection(
    TS,
    "nflog",
    "udp",
    6,
    "2001:db8::1",
    53,
    count=4,
    result="ENETUNREACH",
    process=CURL,
    dest_names=("a.example",),
)
NAMELESS = msgspec.structs.replace(TCP, dest_names_missing="no-answer")
CONTAINER_ID = "0123456789abcdef" * 4


def by(process: Process) -> Connection:
    return Connection(TS, "ebpf", "tcp", 4, "192.0.2.1", 81, process=process)


LOST = Connection(TS, "nflog", "1", 4, "192.0.2.1", None, attribution="process has gone")
HOSTILE = Connection(TS, "ebpf", "tcp", 4, "192.0.2.1", 81, process=Process(pid=1, name="a\nb\x1b[31m"))


@pytest.mark.parametrize(
    ("connection", "line"),
    [
        (TCP, "00:13:20 TCP 146.148.13.123:443(https) by curl[300] user ubuntu parent bash[20]"),
        (
            FULL,
            "00:13:20 UDP [2001:db8::1]:53(domain) x4 ENETUNREACH by curl[300] user ubuntu parent bash[20]"
            " names a.example",
        ),
        (
            NAMELESS,
            "00:13:20 TCP 146.148.13.123:443(https) by curl[300] user ubuntu parent bash[20] no name (no-answer)",
        ),
        (LOST, "00:13:20 IP protocol 1 192.0.2.1 by an unknown process (process has gone)"),
        (HOSTILE, "00:13:20 TCP 192.0.2.1:81 by a\\nb\\u001b[31m[1]"),
        (
            by(
                Process(
                    pid=9, name="sshd", user="root", unit="ssh.service", parent=Process(pid=1, name="init")
                )
            ),
            "00:13:20 TCP 192.0.2.1:81 by sshd[9] user root unit ssh.service parent init[1]",
        ),
        (
            by(Process(pid=9, name="c", container=CONTAINER_ID, container_name="web", unit="docker.service")),
            "00:13:20 TCP 192.0.2.1:81 by c[9] container web",
        ),
        (
            by(Process(pid=9, name="c", container=CONTAINER_ID, unit="docker.service")),
            "00:13:20 TCP 192.0.2.1:81 by c[9] container 0123456789ab",
        ),
        (
            by(Process(pid=9, name="c", container_name="a\nb\x1b\udcff")),
            "00:13:20 TCP 192.0.2.1:81 by c[9] container a\\nb\\u001b\\udcff",
        ),
        (
            by(Process(pid=9, name="c", unit="a\n\u202e.service")),
            "00:13:20 TCP 192.0.2.1:81 by c[9] unit a\\n\\u202e.service",
        ),
        (by(Process(pid=9, name="kworker", kernel=True)), "00:13:20 TCP 192.0.2.1:81 by kworker[9]"),
    ],
)
def test_line(connection: Connection, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    output = Text(TextOptions())
    output.open(Context(Losses(), print, print))
    output.write([connection, connection])
    output.flush()
    output.close()
    assert capfd.readouterr().out == f"{line}\n{line}\n"


@pytest.mark.parametrize(
    ("connection", "line"),
    [
        (
            Connection(
                TS,
                "nflog",
                "tcp",
                4,
                "146.148.13.123",
                443,
                src_ip="192.168.1.229",
                src_port=60166,
                process=CURL,
            ),
            "new TCP connection 192.168.1.229:60166 -> 146.148.13.123:443(https) by curl",
        ),
        (TCP, "new TCP connection to 146.148.13.123:443(https) by curl"),
        (
            Connection(TS, "nflog", "udp", 6, "2001:db8::1", 53, src_ip="2001:db8::2", src_port=9),
            "new UDP connection [2001:db8::2]:9 -> [2001:db8::1]:53(domain) by an unknown process",
        ),
        (LOST, "new IP protocol 1 connection to 192.0.2.1 by an unknown process"),
        (HOSTILE, "new TCP connection to 192.0.2.1:81 by a\\nb\\u001b[31m"),
        (
            Connection(TS, "ebpf", "tcp", 4, "192.0.2.1", 1, process=Process(pid=1, comm="c")),
            "new TCP connection to 192.0.2.1:1(\\u001b) by c",
        ),
    ],
)
def test_upstream_line(connection: Connection, line: str) -> None:
    assert upstream_line(connection) == line


def test_services_are_asked_for_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc's getservbyport gives two threads at once one name for both ports."""
    both, met = Barrier(2), []

    def service(port: int, protocol: str) -> str:
        try:
            both.wait(0.2)
            met.append(port)
        except BrokenBarrierError:
            pass
        return str(port)

    monkeypatch.setattr("socket.getservbyport", service)
    text._service.cache_clear()
    threads = [Thread(target=text._service, args=(port, "tcp")) for port in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text._service.cache_clear()
    assert met == []

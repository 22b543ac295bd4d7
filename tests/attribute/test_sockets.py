# SPDX-License-Identifier: MIT
"""The kernel is asked for the sockets that can have sent a packet, and for no others."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyegress.attribute.sockets import TRIES, Query, Socket, SocketTable
from pyegress.errors import UnsupportedError
from tests.attribute.acting import inside, ip, namespace, needs_root, packed, tcp, udp

V4, V6 = "127.0.0.1", "::1"
EVERYWHERE = {
    "v4": (socket.AF_INET, V4),
    "v6": (socket.AF_INET6, V6),
    "v4 on v6": (socket.AF_INET6, f"::ffff:{V4}"),
}
needs_v6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


@pytest.fixture
def table() -> Iterator[SocketTable]:
    """That of the own namespace."""
    made = SocketTable()
    yield made
    made.close()


def inode(one: socket.socket) -> int:
    """Its number."""
    return os.fstat(one.fileno()).st_ino


def inodes(found: list[Socket]) -> set[int]:
    """Their numbers."""
    return {one.inode for one in found}


def bound(
    family: int, address: str, kind: int = socket.SOCK_DGRAM, port: int = 0, **options: int
) -> socket.socket:
    """A socket with an address."""
    one = socket.socket(family, kind)
    for name, value in options.items():
        level = socket.IPPROTO_IPV6 if name == "IPV6_V6ONLY" else socket.SOL_SOCKET
        one.setsockopt(level, getattr(socket, name), value)
    one.bind((address, port))
    return one


class TestTcp:
    """One socket, or none."""

    @needs_v6
    @pytest.mark.parametrize("end", EVERYWHERE)
    def test_connection(self, table: SocketTable, end: str) -> None:
        """Either end is found by its own direction; with its owner, and where the kernel tells, its cgroup."""
        family, address = EVERYWHERE[end]
        with bound(family, address, socket.SOCK_STREAM) as listener:
            listener.listen()
            with socket.socket(family) as client:
                client.connect(listener.getsockname())
                with listener.accept()[0] as server:
                    (found,) = table.find(tcp(client.getsockname(), listener.getsockname()))
                    assert (found.inode, found.uid) == (inode(client), os.geteuid())
                    assert found.cgroup_id != 0
                    back = table.find(tcp(listener.getsockname(), client.getsockname()))
                    assert inodes(back) == {inode(server)}

    def test_listener_is_no_sender(self, table: SocketTable) -> None:
        """The kernel offers the listener of the port for a connection that isn't there."""
        with socket.create_server((V4, 0)) as listener:
            assert table.find(tcp(listener.getsockname(), (V4, 9))) == []
            assert table.find(tcp((V4, 9), listener.getsockname())) == []

    def test_closed(self, table: SocketTable) -> None:
        """In TIME_WAIT nobody has it any more."""
        with socket.create_server((V4, 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            asked = tcp(client.getsockname(), listener.getsockname())
            server = listener.accept()[0]
            client.close()
            assert [one.inode for one in table.find(asked)] in ([0], [])
            server.close()
            assert [one.inode for one in table.find(asked)] in ([0], [])

    @needs_root
    def test_while_it_connects(self) -> None:
        """Nobody answers, and the socket has sent its first packet."""
        with namespace() as name:
            for command in (
                "link add swallow type veth peer name nobody",
                "link set nobody up",
                "address add 198.51.100.1/24 dev swallow",
                "link set swallow up",
                "neighbour replace 198.51.100.7 lladdr 02:00:00:00:00:01 dev swallow",
            ):
                ip(name, command)

            def look() -> bool:
                table = SocketTable()
                with socket.socket() as client:
                    client.setblocking(False)
                    assert client.connect_ex(("198.51.100.7", 443)) == errno.EINPROGRESS
                    found = table.find(tcp(client.getsockname(), ("198.51.100.7", 443)))
                    table.close()
                    return inodes(found) == {inode(client)}

            assert inside(name, look)

    @needs_root
    def test_bound_to_an_interface(self, table: SocketTable) -> None:
        """It is found by the interface that it sends by, not by another."""
        lo = socket.if_nametoindex("lo")
        with socket.create_server((V4, 0)) as listener, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            client.connect(listener.getsockname())
            asked = tcp(client.getsockname(), listener.getsockname())
            assert inodes(table.find(asked._replace(ifindex=lo))) == {inode(client)}
            assert table.find(asked._replace(ifindex=lo + 1000)) == []

    def test_with_and_without_an_interface(self, table: SocketTable) -> None:
        """A socket that is bound to none is found either way."""
        with (
            socket.create_server((V4, 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            asked = tcp(client.getsockname(), listener.getsockname())
            for ifindex in (0, socket.if_nametoindex("lo"), 1000):
                assert inodes(table.find(asked._replace(ifindex=ifindex))) == {inode(client)}


class TestUdp:
    """All that can have sent it."""

    @needs_v6
    @pytest.mark.parametrize("end", EVERYWHERE)
    @pytest.mark.parametrize("state", ["unconnected", "connected", "connected elsewhere"])
    def test_one_socket(self, table: SocketTable, end: str, state: str) -> None:
        """Whether and where it is connected does not matter: it can send anywhere."""
        family, address = EVERYWHERE[end]
        with bound(family, address) as one:
            if state != "unconnected":
                one.connect((address, 9))
            to = (address, 9 if state == "connected" else 7)
            assert inodes(table.find(udp(one.getsockname(), to))) == {inode(one)}

    def test_any_address(self, table: SocketTable) -> None:
        """Bound to none, it sends from each."""
        with bound(socket.AF_INET, "0.0.0.0") as one:
            assert inodes(table.find(udp((V4, one.getsockname()[1]), (V4, 9)))) == {inode(one)}

    @needs_v6
    @pytest.mark.parametrize(("only", "count"), [(0, 1), (1, 0)])
    def test_v4_by_a_v6_socket(self, table: SocketTable, only: int, count: int) -> None:
        """Unless it is for IPv6 only."""
        with bound(socket.AF_INET6, "::", IPV6_V6ONLY=only) as one:
            port = one.getsockname()[1]
            assert len(table.find(udp((V4, port), (V4, 9)))) == count
            assert inodes(table.find(udp((V6, port), (V6, 9)))) == {inode(one)}

    @needs_v6
    def test_v6_by_a_v4_socket(self, table: SocketTable) -> None:
        """It can't; nor can one that is bound to a mapped address."""
        with bound(socket.AF_INET, "0.0.0.0") as one, bound(socket.AF_INET6, f"::ffff:{V4}") as mapped:
            for other in (one, mapped):
                assert table.find(udp((V6, other.getsockname()[1]), (V6, 9))) == []

    def test_shared_port(self, table: SocketTable) -> None:
        """All of a group, also those that are connected elsewhere."""
        with bound(socket.AF_INET, V4, SO_REUSEPORT=1) as one:
            port = one.getsockname()[1]
            with bound(socket.AF_INET, "0.0.0.0", port=port, SO_REUSEPORT=1) as other:
                other.connect((V4, 9))
                assert inodes(table.find(udp((V4, port), (V4, 7)))) == {inode(one), inode(other)}

    def test_bound_to_another_address(self, table: SocketTable) -> None:
        """The same user's is not meant."""
        with bound(socket.AF_INET, V4) as one:
            port = one.getsockname()[1]
            with bound(socket.AF_INET, "127.0.0.2", port=port) as other:
                assert inodes(table.find(udp((V4, port), (V4, 9)))) == {inode(one)}
                assert inodes(table.find(udp(("127.0.0.2", port), (V4, 9)))) == {inode(other)}
                assert table.find(udp(("127.0.0.3", port), (V4, 9))) == []

    @needs_root
    def test_bound_to_another_address_by_another_user(self, table: SocketTable) -> None:
        """Its packets can have any address of the host: it can't be left out unless the owner is known."""
        with bound(socket.AF_INET, V4) as one:
            port = one.getsockname()[1]
            with bound(socket.AF_INET, "127.0.0.2", port=port) as other:
                os.fchown(other.fileno(), 12345, -1)
                asked = udp((V4, port), (V4, 9))
                assert inodes(table.find(asked)) == {inode(one), inode(other)}
                assert inodes(table.find(asked._replace(uid=0))) == {inode(one)}

    @needs_root
    def test_owner(self, table: SocketTable) -> None:
        """Of those that share a port, those of the packet's owner; if there is none, what there is."""
        with bound(socket.AF_INET, V4, SO_REUSEPORT=1) as one:
            port = one.getsockname()[1]
            with bound(socket.AF_INET, V4, port=port, SO_REUSEPORT=1) as other:
                os.fchown(other.fileno(), 12345, -1)
                asked = udp((V4, port), (V4, 9))
                assert table.find(asked._replace(uid=12345)) == [
                    found for found in table.find(asked) if found.inode == inode(other)
                ]
                assert inodes(table.find(asked._replace(uid=0))) == {inode(one)}
                assert inodes(table.find(asked._replace(uid=1))) == {inode(one), inode(other)}

    @needs_root
    def test_bound_to_an_interface(self, table: SocketTable) -> None:
        """It does not send by another; where the interface isn't known, it may have."""
        lo = socket.if_nametoindex("lo")
        with bound(socket.AF_INET, V4) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            asked = udp(one.getsockname(), (V4, 9))
            assert inodes(table.find(asked._replace(ifindex=lo))) == {inode(one)}
            assert inodes(table.find(asked)) == {inode(one)}
            assert table.find(asked._replace(ifindex=lo + 1000)) == []

    def test_closed(self, table: SocketTable) -> None:
        """Nobody has the port."""
        with bound(socket.AF_INET, V4) as one:
            asked = udp(one.getsockname(), (V4, 9))
        assert table.find(asked) == []

    def test_more_than_one_answer_holds(self, table: SocketTable) -> None:
        """Hundreds that share a port come in several messages."""
        with bound(socket.AF_INET, V4, SO_REUSEPORT=1) as first:
            port = first.getsockname()[1]
            others = [bound(socket.AF_INET, V4, port=port, SO_REUSEPORT=1) for _ in range(500)]
            found = table.find(udp((V4, port), (V4, 9)))
            assert inodes(found) == {inode(one) for one in (first, *others)}
            for one in others:
                one.close()


class FakeNetlink:
    """A netlink socket with prepared answers, each made from the sequence number of the last request."""

    def __init__(self, real: socket.socket, answers: list[Any]) -> None:
        self._real = real
        self._answers = answers
        self.sent = 0
        self.sequence = 0

    def send(self, request: bytes) -> int:
        """Remember its number."""
        self.sent += 1
        self.sequence = struct.unpack_from("=IHHI", request)[3]
        return len(request)

    def recv_into(self, buffer: bytearray) -> int:
        """The next answer, or its error."""
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        made: bytes = b"".join(part(self.sequence) for part in answer)
        buffer[: len(made)] = made
        return len(made)

    def close(self) -> None:
        """Of the real one."""
        self._real.close()


def message(kind: int, body: bytes, flags: int = 0, late: int = 0) -> Any:
    """An answer to the last request, or to one that many requests earlier."""
    return lambda sequence: struct.pack("=IHHII", 16 + len(body), kind, flags, sequence - late, 0) + body


def answer(number: int, **more: int) -> Any:
    """A socket that is bound to nothing."""
    return message(
        20, struct.pack("=BBBBHH16s16sIQIIIII", 2, 7, 0, 0, 0, 0, b"", b"", 0, 0, 0, 0, 0, 0, number), **more
    )


DONE = message(3, struct.pack("=i", 0))
NOTHING = [DONE]
ASKED = Query(4, 17, packed(V4), packed(V4), 7, 9)


def failed(code: int) -> OSError:
    """Of the receiving call."""
    return OSError(code, os.strerror(code))


class TestAnswers:
    """What netlink does to a request and its answers."""

    @staticmethod
    def ask(table: SocketTable, *answers: Any) -> tuple[FakeNetlink, list[Socket]]:
        """What is found with these answers to the dumps of IPv6 and IPv4."""
        fake = FakeNetlink(table._netlink, list(answers))
        table._netlink = fake  # type: ignore[assignment]
        return fake, table.find(ASKED)

    def test_late_answers_are_passed_over(self, table: SocketTable) -> None:
        """They were to an earlier request."""
        fake, found = self.ask(
            table, NOTHING, [answer(1, late=1), message(3, bytes(4), late=1)], [answer(2), DONE]
        )
        assert (inodes(found), fake.sent) == ({2}, 2)

    @pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EAGAIN, errno.EINTR])
    def test_lost_answer(self, table: SocketTable, code: int) -> None:
        """It is asked again, and what came of the first is not taken twice."""
        fake, found = self.ask(table, NOTHING, [answer(1)], failed(code), [answer(1), DONE])
        assert ([one.inode for one in found], fake.sent) == ([1], 3)

    def test_table_that_changed_meanwhile(self, table: SocketTable) -> None:
        """A dump that says so may lack a socket."""
        fake, found = self.ask(table, NOTHING, [answer(1, flags=0x10), DONE], [answer(1), answer(2), DONE])
        assert (inodes(found), fake.sent) == ({1, 2}, 3)

    def test_no_endless_tries(self, table: SocketTable) -> None:
        """In the end it is an error, and the next question is answered."""
        with pytest.raises(OSError, match="No buffer space"):
            self.ask(table, *[failed(errno.ENOBUFS)] * TRIES)
        table._netlink._answers = [NOTHING, [answer(3), DONE]]  # type: ignore[attr-defined]
        assert inodes(table.find(ASKED)) == {3}

    def test_error_is_not_nothing(self, table: SocketTable) -> None:
        """A refusal does not mean that the socket is gone."""
        with pytest.raises(PermissionError):
            self.ask(table, [message(2, struct.pack("=i", -errno.EPERM))])

    def test_no_such_connection(self, table: SocketTable) -> None:
        """For an exact question that is an answer."""
        fake = FakeNetlink(table._netlink, [[message(2, struct.pack("=i", -errno.ENOENT))]])
        table._netlink = fake  # type: ignore[assignment]
        assert table.find(ASKED._replace(protocol=6)) == []

    def test_attribute_without_length(self, table: SocketTable) -> None:
        """Reading it ends."""
        whole = struct.pack("=BBBBHH16s16sIQIIIII", 2, 7, 0, 0, 0, 0, b"", b"", 0, 0, 0, 0, 0, 0, 5) + bytes(
            8
        )
        _, found = self.ask(table, NOTHING, [message(20, whole), DONE])
        assert inodes(found) == {5}


def test_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules are missing: the message says which."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "no netlink")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(UnsupportedError, match="EPROTONOSUPPORT.*tcp_diag and udp_diag"):
        SocketTable()


def test_nothing_stays_open() -> None:
    """One descriptor each, until it is closed."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        SocketTable().close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before

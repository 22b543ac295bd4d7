# SPDX-License-Identifier: MIT
"""From a packet to its process: the right one, or a reason, and never another one."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pyegress.attribute.lookup import GONE, NO_ANSWER, WITHOUT_PORTS, Found, Lookup, Query, Unknown
from pyegress.attribute.owners import AMBIGUOUS, FORBIDDEN, OTHER_NAMESPACE
from pyegress.record import ATTRIBUTED
from tests.attribute.acting import Actor, acting, ending, namespace, needs_root, packed, tcp, udp

ROOT = Path(__file__).resolve().parents[2]
V4 = "127.0.0.1"
NOWHERE = (V4, 9)
SETPRIV = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def lookup() -> Iterator[Lookup]:
    """With all rights."""
    made = Lookup(lambda: True, lambda: None)
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody to connect to."""
    with socket.create_server((V4, 0)) as made:
        yield made


def told(lookup: Lookup, query: Query) -> tuple[object, object]:
    """What `find` and `search` tell: a number, a reason or None."""
    return tuple(  # type: ignore[return-value]
        answer.process.pid
        if isinstance(answer, Found)
        else answer.reason
        if isinstance(answer, Unknown)
        else answer
        for answer in (lookup.find(query), lookup.search([query])[0])
    )


def connected(actor: Actor, to: tuple[str, int]) -> Query:
    """The packets of a new connection of that process."""
    actor.do(f"one = socket.create_connection({to!r})")
    return tcp(actor.do("one.getsockname()"), to)


def datagram(actor: Actor, to: tuple[str, int] = NOWHERE, name: str = "one", connect: object = None) -> Query:
    """The packet that a new socket of that process sends."""
    actor.do(f"{name} = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    if connect:
        actor.do(f"{name}.connect({connect!r})")
    actor.do(f"{name}.sendto(b'x', {to!r})")
    return udp((V4, actor.do(f"{name}.getsockname()[1]")), to)


def shared(actor: Actor, port: int = 0, name: str = "one") -> int:
    """The port that a new socket of that process is bound to, and shares."""
    actor.do(f"{name} = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    actor.do(f"{name}.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)")
    actor.do(f"{name}.bind(({V4!r}, {port}))")
    return int(actor.do(f"{name}.getsockname()[1]"))


class TestFound:
    """The process is told."""

    def test_tcp(self, lookup: Lookup, listener: socket.socket) -> None:
        """Whole, and the same object each time."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            assert told(lookup, query)[1] == actor.pid
            found = lookup.find(query)
            assert isinstance(found, Found)
            process = found.process
            assert process.attribution == "sock_diag"
            assert process.attribution in ATTRIBUTED
            assert (process.exe, process.uid) == (os.path.realpath(sys.executable), os.getuid())
            again = lookup.find(query), lookup.search([query])[0]
            assert all(isinstance(one, Found) and one.process is process for one in again)

    @pytest.mark.parametrize("connect", [None, NOWHERE, (V4, 10)], ids=["no", "there", "elsewhere"])
    def test_udp(self, lookup: Lookup, connect: object) -> None:
        """Whether and where the socket is connected."""
        with acting() as actor:
            query = datagram(actor, connect=connect)
            assert told(lookup, query)[1] == actor.pid
            assert told(lookup, query) == (actor.pid, actor.pid)

    def test_port_shared_by_one_process(self, lookup: Lookup) -> None:
        """Several sockets of one process are one sender."""
        with acting() as actor:
            port = shared(actor)
            shared(actor, port, "two")
            query = udp((V4, port), NOWHERE)
            assert told(lookup, query)[1] == actor.pid
            assert told(lookup, query)[0] == actor.pid

    def test_short_lived(self, lookup: Lookup, listener: socket.socket) -> None:
        """Found while it is there, gone after that: a process that has its number now would not be told."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            assert told(lookup, query)[1] == actor.pid
        assert told(lookup, query) == (GONE, GONE)

    def test_child_has_it_alone(self, lookup: Lookup, listener: socket.socket) -> None:
        """The parent has closed it."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            with ending(actor.do("forked()")) as child:
                assert told(lookup, query)[1] == AMBIGUOUS
                actor.do("one.close()")
                assert told(lookup, query) == (child, child)

    @needs_root
    def test_owner(self, lookup: Lookup, listener: socket.socket) -> None:
        """The one that netfilter names is the socket's; one that isn't puts all in doubt."""
        with acting(*SETPRIV) as actor:
            for query in (connected(actor, listener.getsockname()), datagram(actor, name="two")):
                assert told(lookup, query._replace(uid=65534))[1] == actor.pid
                assert told(lookup, query._replace(uid=65533))[1] == AMBIGUOUS

    @needs_root
    def test_owner_of_the_socket(self, lookup: Lookup, listener: socket.socket) -> None:
        """It stays who made it, whatever the process has become."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            actor.do("os.setuid(65534)")
            (found,) = lookup.search([query])
        assert isinstance(found, Found)
        assert (found.process.pid, found.process.uid, found.uid) == (actor.pid, 65534, os.getuid())

    def test_many_at_once(self, lookup: Lookup, listener: socket.socket) -> None:
        """Each query has its own answer, in order."""
        with acting() as one, acting() as other:
            queries = [
                connected(one, listener.getsockname()),
                tcp((V4, 1), NOWHERE),
                datagram(other),
                tcp((V4, 1), NOWHERE)._replace(protocol=1),
            ]
            found = lookup.search(queries)
            assert [
                answer.process.pid if isinstance(answer, Found) else answer.reason for answer in found
            ] == [
                one.pid,
                GONE,
                other.pid,
                "no look-up for protocol 1",
            ]
        assert lookup.search([]) == []

    def test_search_beside_find(self, lookup: Lookup, listener: socket.socket) -> None:
        """Two threads ask at the same time, while processes come and go; none is told a wrong one."""
        wrong: list[object] = []
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            lookup.search([query])
            own = datagram(actor, name="two")

            def search() -> None:
                for _ in range(30):
                    wrong.extend(
                        answer
                        for answer in lookup.search([query, own])
                        if not isinstance(answer, Found) or answer.process.pid != actor.pid
                    )

            thread = Thread(target=search)
            thread.start()
            while thread.is_alive():
                subprocess.run(["true"], check=True)
                for asked in (query, own):
                    answer = lookup.find(asked)
                    if answer is not None and (
                        not isinstance(answer, Found) or answer.process.pid != actor.pid
                    ):
                        wrong.append(answer)
            thread.join()
        assert wrong == []


class TestUnknown:
    """A reason is told."""

    def test_port_shared_by_two_processes(self, lookup: Lookup) -> None:
        """Also where one of the sockets is connected to just that address."""
        with acting() as one, acting() as other:
            port = shared(one)
            shared(other, port)
            query = udp((V4, port), NOWHERE)
            assert told(lookup, query)[1] == AMBIGUOUS
            one.do(f"one.connect({NOWHERE!r})")
            assert told(lookup, query)[1] == AMBIGUOUS
            other.do("one.close()")
            assert told(lookup, query) == (one.pid, one.pid)

    def test_inherited(self, lookup: Lookup, listener: socket.socket) -> None:
        """Parent and child have it; what the socket itself told is told."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            with ending(actor.do("forked()")):
                (found,) = lookup.search([query])
        assert isinstance(found, Unknown)
        assert (found.reason, found.uid) == (AMBIGUOUS, os.getuid())

    def test_closed_at_once(self, lookup: Lookup, listener: socket.socket) -> None:
        """There is no need to search for that."""
        with acting() as actor:
            query = connected(actor, listener.getsockname())
            other = datagram(actor, name="two")
            for name in ("one", "two"):
                actor.do(f"{name}.close()")
            assert told(lookup, query) == (GONE, GONE)
            assert told(lookup, other) == (GONE, GONE)

    def test_listener_is_not_blamed(self, lookup: Lookup, listener: socket.socket) -> None:
        """It has the port, and not the connection."""
        assert told(lookup, tcp(listener.getsockname(), NOWHERE)) == (GONE, GONE)

    @pytest.mark.parametrize("protocol", [1, 58, 132, 255])
    def test_other_protocols(self, lookup: Lookup, protocol: int) -> None:
        """In words of their own, with the owner that netfilter told."""
        query = Query(4, protocol, packed(V4), packed(V4), None, None, uid=5)
        expected = Unknown(f"no look-up for protocol {protocol}", 5, None)
        assert lookup.find(query) == lookup.search([query])[0] == expected

    def test_without_ports(self, lookup: Lookup) -> None:
        """A fragment tells nothing."""
        query = Query(4, 17, packed(V4), packed(V4), None, None)
        assert lookup.find(query) == lookup.search([query])[0] == Unknown(WITHOUT_PORTS, None, None)

    def test_kernel_that_does_not_answer(self, lookup: Lookup, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is no error of the input's."""

        def fails(query: Query) -> None:
            raise OSError(errno.ENOBUFS, "sock_diag")

        monkeypatch.setattr(lookup._sockets, "find", fails)
        assert told(lookup, tcp((V4, 1), NOWHERE)) == (NO_ANSWER, NO_ANSWER)

    @needs_root
    def test_without_rights(self) -> None:
        """Of another user's process nothing is said; an own one is found; that more rights are missing is told."""
        with socket.create_server((V4, 0)) as server, acting() as other, acting(*SETPRIV) as own:
            foreign, mine = (tuple(connected(one, server.getsockname())) for one in (other, own))
            code = f"""
import os
from pyegress.attribute.lookup import Lookup, Query
os.setgroups([]); os.setgid(65534); os.setuid(65534)
told = []
lookup = Lookup(lambda: False, lambda: told.append(1))
found = lookup.search([Query(*{foreign}), Query(*{mine})])
print(found[0].reason, found[0].uid, found[1].process.pid, bool(told), sep=",")
"""
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
            )
            assert done.stdout.strip() == f"{FORBIDDEN},0,{own.pid},True"


@needs_root
class TestForwarded:
    """The packet came from another namespace."""

    HERE = "192.0.2.9"
    TO = ("203.0.113.1", 53)

    @staticmethod
    def bound(actor: Actor, port: int = 7777) -> None:
        """A UDP socket of that process in its namespace."""
        actor.do("one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        actor.do(f"one.bind(('192.0.2.9', {port}))")

    def query(self, port: int = 7777) -> Query:
        """A datagram that the host forwards."""
        return udp((self.HERE, port), self.TO, local=False)

    def test_udp(self, lookup: Lookup) -> None:
        """That takes a search."""
        with namespace(f"{self.HERE}/24") as name, acting("ip", "netns", "exec", name) as actor:
            self.bound(actor)
            assert told(lookup, self.query()) == (None, actor.pid)
            assert told(lookup, self.query(7778)) == (None, GONE)
            (found,) = lookup.search([self.query()])
            assert isinstance(found, Found)
            assert found.process.netns == Path(f"/run/netns/{name}").stat().st_ino

    def test_tcp(self, lookup: Lookup) -> None:
        """A connection inside of it, which a host process has too: that one isn't blamed."""
        with namespace("127.0.0.9/8") as name, acting("ip", "netns", "exec", name) as actor, acting() as host:
            pairs = []
            for one in (actor, host):
                one.do("server = socket.create_server(('127.0.0.9', 7979))")
                one.do(
                    "one = socket.create_connection(('127.0.0.9', 7979), source_address=('127.0.0.9', 7980))"
                )
                pairs.append(tcp(one.do("one.getsockname()"), ("127.0.0.9", 7979)))
            assert pairs[0] == pairs[1]
            assert told(lookup, pairs[0])[1] == host.pid
            assert told(lookup, pairs[0]._replace(local=False)) == (None, actor.pid)
            actor.do("one.close()")
            assert told(lookup, pairs[0]._replace(local=False))[1] in (OTHER_NAMESPACE, GONE)

    def test_two_namespaces_with_the_same_address(self, lookup: Lookup) -> None:
        """By a port alone they can't be told apart, whether or not both have a socket."""
        with (
            namespace(f"{self.HERE}/24") as one,
            namespace(f"{self.HERE}/24") as other,
            acting("ip", "netns", "exec", one) as first,
            acting("ip", "netns", "exec", other) as second,
        ):
            self.bound(first)
            assert told(lookup, self.query())[1] == AMBIGUOUS
            self.bound(second)
            assert told(lookup, self.query())[1] == AMBIGUOUS

    def test_another_host(self, lookup: Lookup) -> None:
        """Its address is nobody's here, and for a while that needs no search."""
        assert told(lookup, self.query()) == (None, OTHER_NAMESPACE)
        assert told(lookup, self.query()) == (OTHER_NAMESPACE, OTHER_NAMESPACE)


def test_number_given_to_another_process(
    lookup: Lookup, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment between the look at its sockets and the look at its name."""
    with acting() as actor:
        query = connected(actor, listener.getsockname())
        lookup.search([query])
        process = lookup._living.process

        def ends(pid: int, start_ns: int) -> Any:
            told = process(pid, start_ns)
            actor.do("one.close()")
            return told

        monkeypatch.setattr(lookup._living, "process", ends)
        found = lookup.find(query)
    assert isinstance(found, Unknown)
    assert found.reason == GONE


def test_nothing_stays_open() -> None:
    """After it is closed."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        made = Lookup(lambda: True, lambda: None)
        made.search([udp((V4, 1), NOWHERE), udp((V4, 1), NOWHERE, local=False)])
        made.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before

# SPDX-License-Identifier: MIT
"""Sockets of the namespaces that have a packet's source address, never the host's, and nothing kept open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyegress.attribute import namespaces
from pyegress.attribute.namespaces import Namespaces
from pyegress.attribute.sockets import Query
from tests.attribute.acting import Actor, acting, inside, ip, namespace, needs_root, packed, udp

pytestmark = needs_root
HERE, THERE = "192.0.2.9", "192.0.2.10"
HERE_V6 = "2001:db8::9"
PORT = 7777


@contextmanager
def sender(name: str, address: str = HERE, port: int = PORT) -> Iterator[tuple[Actor, int]]:
    """A process in a namespace with a UDP socket of that address, and the socket's number."""
    with acting("ip", "netns", "exec", name) as actor:
        family = "socket.AF_INET6" if ":" in address else "socket.AF_INET"
        actor.do(f"one = socket.socket({family}, socket.SOCK_DGRAM)")
        actor.do(f"one.bind(({address!r}, {port}))")
        yield actor, actor.do("os.fstat(one.fileno()).st_ino")


def asked(src: str = HERE, port: int = PORT) -> Query:
    """A forwarded packet."""
    return udp((src, port), ("2001:db8::1" if ":" in src else "203.0.113.1", 53), local=False)


def inodes(known: Namespaces, *queries: Query) -> list[list[list[int]]]:
    """Numbers of the sockets of each namespace, for each query."""
    return [[[one.inode for one in found] for found in each] for each in known.search(queries)]


def test_sender_in_a_namespace() -> None:
    """By IPv4 and IPv6."""
    with (
        namespace(f"{HERE}/24", f"{HERE_V6}/64") as name,
        sender(name) as (_, v4),
        sender(name, HERE_V6) as (_, v6),
    ):
        assert inodes(Namespaces(), asked(), asked(HERE_V6), asked(port=9)) == [[[v4]], [[v6]], [[]]]


def test_other_end_of_a_link_is_no_own_address() -> None:
    """Only the local one of the two that such an interface has."""
    with namespace() as name:
        ip(name, f"address add {HERE} peer {THERE} dev lo")
        with sender(name) as (_, inode):
            assert inodes(Namespaces(), asked(), asked(THERE)) == [[[inode]], []]


def test_two_with_the_same_address() -> None:
    """Each tells what it has."""
    with namespace(f"{HERE}/24") as one, namespace(f"{HERE}/24") as other, sender(one) as (_, inode):
        assert sorted(inodes(Namespaces(), asked())[0]) == [[], [inode]]
        with sender(other) as (_, second):
            assert sorted(inodes(Namespaces(), asked())[0]) == sorted([[inode], [second]])


def test_host_is_not_asked() -> None:
    """Its own address and socket are no answer for a forwarded packet."""
    with acting() as actor:
        actor.do("one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        actor.do("one.bind(('127.0.0.77', 0))")
        port = actor.do("one.getsockname()[1]")
        for found in Namespaces().search([asked("127.0.0.77", port)])[0]:
            assert found == []


def test_namespace_without_a_name() -> None:
    """A process is enough to find it, as a container's."""
    with acting("unshare", "--net") as actor:
        actor.do("import subprocess")
        for command in ("ip link set lo up", f"ip address add {HERE}/24 dev lo"):
            actor.do(f"subprocess.run({command.split()}, check=True) and None")
        actor.do("one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
        actor.do(f"one.bind(({HERE!r}, {PORT}))")
        assert inodes(Namespaces(), asked()) == [[[actor.do("os.fstat(one.fileno()).st_ino")]]]


def test_namespace_without_a_process(tmp_path: Path) -> None:
    """It is mounted, and may have sent it in the kernel's name."""
    with namespace(f"{HERE}/24"):
        assert inodes(Namespaces(), asked()) == [[[]]]
        assert inodes(Namespaces(mounted=[tmp_path]), asked()) == [[]]


def test_from_inside_a_namespace() -> None:
    """The own one is the one of the thread, wherever that is."""
    with namespace(f"{HERE}/24") as name, sender(name):
        assert inside(name, lambda: inodes(Namespaces(), asked())) == [[]]


def test_strangers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while, and not too many of them."""
    monkeypatch.setattr(namespaces, "_STRANGERS", 3)
    known = Namespaces()
    known.search([asked(f"198.51.100.{last}") for last in range(1, 9)])
    assert [known.is_stranger(packed(f"198.51.100.{last}")) for last in (1, 5, 6, 7, 8)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    monkeypatch.setattr(namespaces, "STRANGER_NS", -1)
    known.search([asked("198.51.100.8")])
    assert not known.is_stranger(packed("198.51.100.8"))


def test_addresses_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment; in it they are not."""
    known = Namespaces()
    with namespace(f"{HERE}/24") as name:
        assert inodes(known, asked()) == [[[]]]
        ip(name, f"address add {THERE}/24 dev lo")
        monkeypatch.setattr(namespaces, "ADDRESSES_NS", 1 << 62)
        assert inodes(known, asked(THERE)) == [[]]
        monkeypatch.setattr(namespaces, "ADDRESSES_NS", -1)
        assert inodes(known, asked(THERE)) == [[[]]]
    known.search([asked()])
    assert inodes(known, asked()) == [[]]


def test_nothing_is_kept() -> None:
    """Neither descriptors nor the thread's namespace: an open socket would keep a namespace alive."""
    known = Namespaces()
    with namespace(f"{HERE}/24") as name, sender(name):
        known.search([asked()])
        before = len(list(Path("/proc/self/fd").iterdir()))
        own = Path("/proc/thread-self/ns/net").readlink()
        for _ in range(5):
            known.search([asked()])
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert Path("/proc/thread-self/ns/net").readlink() == own


def test_without_rights() -> None:
    """Nothing is entered, so nothing is told."""
    program = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    with namespace(f"{HERE}/24") as name, sender(name), acting(*program) as user:
        root = os.fspath(Path(__file__).resolve().parents[2])
        user.do(f"sys.path.insert(0, {root!r})")
        user.do("from pyegress.attribute.namespaces import Namespaces")
        user.do("from pyegress.attribute.sockets import Query")
        assert user.do(f"Namespaces().search([Query(*{tuple(asked())!r})])") == [[]]


def test_process_that_ended_first(tmp_path: Path) -> None:
    """Another one of the same namespace is tried, until it was entered."""
    for pid in ("100", "101", "102"):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns/net").symlink_to("net:[7]" if pid != "102" else "net:[8]")
    known = Namespaces(tmp_path, ())
    assert sorted(known._paths(())) == [f"{tmp_path}/{pid}/ns/net" for pid in (100, 101, 102)]
    assert list(known._paths({7})) == [f"{tmp_path}/102/ns/net"]


@pytest.mark.parametrize(("kept", "others"), [("LOOKING", 0), ("LOOKING | {Capability.SYS_ADMIN}", 1)])
def test_with_the_rights_that_inputs_keep(kept: str, others: int) -> None:
    """CAP_SYS_ADMIN is what it takes, beside those to look into /proc."""
    with namespace(f"{HERE}/24") as name, sender(name), acting() as user:
        root = os.fspath(Path(__file__).resolve().parents[2])
        user.do(f"sys.path.insert(0, {root!r})")
        user.do("from pyegress.attribute.namespaces import Namespaces")
        user.do("from pyegress.attribute.sockets import Query")
        user.do("from pyegress.privileges import LOOKING, Capability, drop")
        user.do(f"drop({kept})")
        ((*found,),) = user.do(f"[len(each) for each in Namespaces().search([Query(*{tuple(asked())!r})])],")
        assert found == [others]

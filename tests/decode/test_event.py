# SPDX-License-Identifier: MIT
"""The decoder: each member of a raw record at its place in the Connection."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest

from pyegress._native import ffi, lib
from pyegress.decode import event
from pyegress.decode.event import EventDecoder
from pyegress.record import DETAILS_LOST, Connection, Identity, Process, Seen

OWN_NETNS = 4026531840
OFFSET_NS = 1_700_000_000_000_000_000
INTERFACES = {2: "eth0"}


def packed(address: str) -> bytes:
    """An address as the kernel side stores it."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)


IDENTITY = {"start_ns": 11, "tgid": 14, "exec_id": 15}
PROCESS: dict[str, Any] = {"cgroup_id": 13, "uid": 16, "gid": 17, "flags": 0, "comm": b"curl"}
EVENT: dict[str, Any] = {
    "ts_ns": 1,
    "count": 2,
    "tid": 3,
    "netns": OWN_NETNS,
    "ifindex": 0,
    "result": 0,
    "socket_uid": 21,
    "sport": 40000,
    "dport": 443,
    "family": 4,
    "protocol": 6,
    "flags": lib.EGRESS_RESULT_KNOWN,
    "saddr": packed("198.51.100.1"),
    "daddr": packed("192.0.2.1"),
    "thread_comm": b"",
}


def raw(process: dict[str, Any] | None = None, **changed: Any) -> bytes:
    """One record as it lies in the ring; of the process also members of its identity may be changed."""
    members = {**IDENTITY, **PROCESS, **(process or {})}
    identity = {name: members.pop(name) for name in IDENTITY}
    made = ffi.new(
        "struct egress_event *", {**EVENT, **changed, "process": {**members, "identity": identity}}
    )
    return bytes(ffi.buffer(made))


class Resolver:
    """Remembers what it was asked, and answers with its `attribution`."""

    def __init__(self, attribution: str = "kernel") -> None:
        self.asked: list[Seen] = []
        self.attribution = attribution

    def __call__(self, seen: Seen) -> Process:
        self.asked.append(seen)
        return Process(pid=seen.identity.tgid, attribution=self.attribution)


def decoder(resolve: Resolver | None = None) -> EventDecoder:
    """A decoder in this network namespace."""
    return EventDecoder(ffi, resolve or Resolver(), OWN_NETNS, INTERFACES.get)


def decode(process: dict[str, Any] | None = None, **changed: Any) -> Connection:
    """The one connection of one record."""
    (connection,) = decoder().decode(raw(process, **changed), OFFSET_NS)
    return connection


def seen(**process: Any) -> Seen:
    """What the resolver is asked for one process."""
    resolver = Resolver()
    decoder(resolver).decode(raw(process), OFFSET_NS)
    (asked,) = resolver.asked
    return asked


def test_every_field() -> None:
    """Each field comes from its own member of the record."""
    assert decode() == Connection(
        ts=OFFSET_NS + 1,
        hook="ebpf",
        protocol="tcp",
        ip_version=4,
        dest_ip="192.0.2.1",
        dest_port=443,
        src_ip="198.51.100.1",
        src_port=40000,
        count=2,
        result=None,
        direction="out",
        netns=OWN_NETNS,
        ifname=None,
        process=Process(pid=14),
        tid=3,
        thread=None,
        attribution="kernel",
        kernel_socket=False,
        socket_uid=21,
    )


def test_every_field_of_the_process() -> None:
    """The resolver is told what the kernel knew, each from its own member."""
    assert seen() == Seen(
        identity=Identity(tgid=14, start_ns=11, exec_id=15),
        comm="curl",
        uid=16,
        gid=17,
        cgroup_id=13,
        kernel=False,
    )


def test_kernel_thread() -> None:
    """The flag of a kernel thread is handed on."""
    assert seen(flags=lib.EGRESS_KERNEL_THREAD).kernel is True


@pytest.mark.parametrize(
    "flags", [lib.EGRESS_KERNEL_SOCKET, lib.EGRESS_KERNEL_SOCKET | lib.EGRESS_RESULT_KNOWN]
)
def test_kernel_socket(flags: int) -> None:
    """The flag of the kernel's own socket is its own, whatever the other one says."""
    assert decode(flags=flags).kernel_socket is True
    assert decode(flags=flags & ~lib.EGRESS_KERNEL_SOCKET).kernel_socket is False


@pytest.mark.parametrize(
    ("stored", "owner"), [(0, 0), (65534, 65534), (0xFFFFFFFE, 0xFFFFFFFE), (0xFFFFFFFF, None)]
)
def test_owner_of_the_socket(stored: int, owner: int | None) -> None:
    """Any user, root too; the number that no user has means that there is none."""
    assert decode(socket_uid=stored).socket_uid == owner


@pytest.mark.parametrize(
    ("stored", "thread"),
    [
        (b"", None),
        (b"\0old", None),
        (b"worker-1", "worker-1"),
        (b"0123456789abcdef", "0123456789abcdef"),
        (b"a\xff\n\x1b[31m", "a\udcff\n\x1b[31m"),
    ],
)
def test_thread(stored: bytes, thread: str | None) -> None:
    """A thread that isn't the main one has its name; a main thread has none of its own."""
    assert decode(thread_comm=stored).thread == thread


@pytest.mark.parametrize("attribution", ["kernel", "proc", "kernel: without arguments", DETAILS_LOST])
def test_attribution(attribution: str) -> None:
    """Where the process comes from, or why it is not whole, is said of the connection too."""
    (connection,) = decoder(Resolver(attribution)).decode(raw(), OFFSET_NS)
    assert connection.attribution == attribution
    assert connection.process == Process(pid=14, attribution=attribution)


@pytest.mark.parametrize(("number", "protocol"), [(6, "tcp"), (17, "udp")])
def test_protocol(number: int, protocol: str) -> None:
    """Protocols have names."""
    assert decode(protocol=number).protocol == protocol


@pytest.mark.parametrize(("number", "protocol"), [(17, "packet-udp"), (1, "packet-1")])
def test_frame_of_af_packet(number: int, protocol: str) -> None:
    """What it carries is told beside how it was sent."""
    assert decode(protocol=number, flags=lib.EGRESS_PACKET_SOCKET).protocol == protocol


def test_protocol_without_ports() -> None:
    """It has none, and not port 0."""
    assert decode(protocol=1, dport=0).dest_port is None


@pytest.mark.parametrize(
    ("family", "stored", "shown"),
    [
        (4, packed("192.0.2.1"), "192.0.2.1"),
        (4, packed("255.255.255.255"), "255.255.255.255"),
        (6, packed("2001:db8::1"), "2001:db8::1"),
        (6, packed("fe80::ffff:c000:201"), "fe80::ffff:c000:201"),
        (6, packed("::1"), "::1"),
    ],
)
def test_addresses(family: int, stored: bytes, shown: str) -> None:
    """A mapped address is shown as IPv4 and nothing else is."""
    connection = decode(family=family, saddr=stored, daddr=stored)
    assert (connection.ip_version, connection.dest_ip, connection.src_ip) == (family, shown, shown)


@pytest.mark.parametrize("stored", [packed("0.0.0.0"), packed("::")], ids=["0.0.0.0", "::"])
def test_unspecified_source_is_unknown(stored: bytes) -> None:
    """A socket without an address of its own yet has none."""
    assert decode(saddr=stored).src_ip is None


def test_source_port_0_is_unknown() -> None:
    """A socket without a port of its own yet has none."""
    assert decode(sport=0).src_port is None


def test_greatest_ports() -> None:
    """Ports have 16 bits without sign, in host byte order."""
    connection = decode(sport=65535, dport=0xBB01)
    assert (connection.src_port, connection.dest_port) == (65535, 47873)


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (0, None),
        (-errno.EINPROGRESS, "EINPROGRESS"),
        (-errno.ECONNREFUSED, "ECONNREFUSED"),
        (-errno.ENETUNREACH, "ENETUNREACH"),
        (-512, "-512"),
    ],
)
def test_result(result: int, shown: str | None) -> None:
    """A failure has the errno's name, or the kernel's own number, and success none."""
    assert decode(result=result).result == shown
    assert decode(result=result, flags=EVENT["flags"] | lib.EGRESS_KERNEL_SOCKET).result == shown


def test_result_that_is_not_known() -> None:
    """Where the hook did not see the return, whatever stands there says nothing."""
    assert decode(result=-errno.ECONNREFUSED, flags=0).result is None


@pytest.mark.parametrize(
    ("netns", "ifindex", "shown"),
    [(OWN_NETNS, 2, "eth0"), (OWN_NETNS, 9, None), (OWN_NETNS, 0, None), (OWN_NETNS + 1, 2, None)],
    ids=["own", "gone", "none", "of another namespace"],
)
def test_interface_name(netns: int, ifindex: int, shown: str | None) -> None:
    """An index has a name only in the network namespace that it was counted in."""
    assert decode(netns=netns, ifindex=ifindex).ifname == shown


def test_unknown_network_namespace() -> None:
    """A namespace of 0 is none."""
    assert decode(netns=0).netns is None


@pytest.mark.parametrize(
    ("comm", "text"),
    [
        (b"curl\0garbage", "curl"),
        (b"", ""),
        (b"a\xff\xe9b", "a\udcff\udce9b"),
        ("caf\u00e9".encode(), "caf\u00e9"),
        (b"0123456789abcdef", "0123456789abcdef"),
        (b"a\nb\tc\x1b[31m", "a\nb\tc\x1b[31m"),
        (b"123456789abcde\xc3\0", "123456789abcde\udcc3"),
    ],
)
def test_comm(comm: bytes, text: str) -> None:
    """A name ends at its first NUL, or with the field; bytes that are no text survive."""
    assert seen(comm=comm).comm == text


def test_records_of_one_process_share_it() -> None:
    """The same process is resolved once, and is one object."""
    resolver = Resolver()
    decoding = decoder(resolver)
    first, second = decoding.decode(raw() + raw(ts_ns=9, dport=53), OFFSET_NS)
    (third,) = decoding.decode(raw(dport=80), OFFSET_NS)
    assert first.process is second.process is third.process
    assert len(resolver.asked) == 1


@pytest.mark.parametrize("member", [name for name in (*IDENTITY, *PROCESS) if name != "comm"])
def test_another_process_is_resolved_anew(member: str) -> None:
    """A process that differs in anything, as after an exec or with a number used again, is another one."""
    resolver = Resolver()
    batch = decoder(resolver).decode(raw() + raw({member: 99}), OFFSET_NS)
    assert len(resolver.asked) == 2
    assert batch[0].process is not batch[1].process


def test_another_name_is_resolved_anew() -> None:
    """A process may rename itself, and then is known by the new name."""
    resolver = Resolver()
    decoder(resolver).decode(raw() + raw({"comm": b"curl2"}) + raw(), OFFSET_NS)
    assert [asked.comm for asked in resolver.asked] == ["curl", "curl2"]


def test_event_is_no_part_of_the_process() -> None:
    """Another thread, socket or interface of a process is the same process."""
    resolver = Resolver()
    records = raw() + raw(tid=9, thread_comm=b"worker") + raw(flags=lib.EGRESS_KERNEL_SOCKET, ifindex=2)
    batch = decoder(resolver).decode(records, OFFSET_NS)
    assert len(resolver.asked) == 1
    assert batch[0].process is batch[1].process is batch[2].process


def test_lost_details_are_asked_for_again() -> None:
    """They may come with the program's next event: that they were missing is not remembered."""
    resolver = Resolver(DETAILS_LOST)
    decoding = decoder(resolver)
    lost = decoding.decode(raw() + raw(), OFFSET_NS)
    resolver.attribution = "kernel"
    known = decoding.decode(raw() + raw(), OFFSET_NS)
    assert [c.attribution for c in [*lost, *known]] == [DETAILS_LOST, DETAILS_LOST, "kernel", "kernel"]
    assert known[0].process is known[1].process
    assert len(resolver.asked) == 3


def test_reason_that_stays_is_remembered() -> None:
    """A process that has gone has gone: /proc is not asked at each of its events."""
    resolver = Resolver("kernel: without arguments or path, the process was gone")
    decoder(resolver).decode(raw() * 3, OFFSET_NS)
    assert len(resolver.asked) == 1


def test_processes_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first, and asked for again when it comes back."""
    monkeypatch.setattr(event, "_PROCESSES_KEPT", 4)
    resolver = Resolver()
    decoding = decoder(resolver)
    for tgid in (1, 2, 3, 4, 5, 5, 2, 3, 4, 1):
        (connection,) = decoding.decode(raw({"tgid": tgid}), OFFSET_NS)
        assert connection.process == Process(pid=tgid)
        assert len(decoding._processes) <= 4
    assert [asked.identity.tgid for asked in resolver.asked] == [1, 2, 3, 4, 5, 1]


def test_addresses_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many destinations are all decoded, and not all remembered."""
    monkeypatch.setattr("pyegress.decode.address.ADDRESSES_KEPT", 4)
    decoding = decoder()
    for number in range(20):
        address = f"192.0.2.{number}"
        (connection,) = decoding.decode(raw(daddr=packed(address)), OFFSET_NS)
        assert connection.dest_ip == address
        assert len(decoding._addresses) <= 4


def test_threads_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that names thousands of threads does not fill the memory."""
    monkeypatch.setattr(event, "_THREADS_KEPT", 4)
    decoding = decoder()
    for number in range(20):
        (connection,) = decoding.decode(raw(thread_comm=b"worker-%d" % number), OFFSET_NS)
        assert connection.thread == f"worker-{number}"
        assert len(decoding._threads) <= 4


def test_no_records() -> None:
    """An empty buffer is an empty batch."""
    assert decoder().decode(b"", OFFSET_NS) == []


def test_part_of_a_record_is_an_error() -> None:
    """A buffer that does not hold whole records is never decoded at a wrong offset."""
    with pytest.raises(struct.error, match="multiple"):
        decoder().decode(raw()[:-1], OFFSET_NS)

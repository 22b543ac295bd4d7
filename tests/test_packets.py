# SPDX-License-Identifier: MIT
"""Packets to connections: one record for what opens one, windows for flows, filters, what is unknown said."""

from __future__ import annotations

from typing import Any

import pytest

from pyegress.attribute.lookup import Answer, Found, Unknown
from pyegress.decode.packet import ACK, SYN, Packet
from pyegress.filters import FilterOptions
from pyegress.losses import Losses
from pyegress.ownports import reserve
from pyegress.packets import PacketFlows, Sighting
from pyegress.record import Connection, Process
from tests.test_destinations import packed

TCP, UDP, ICMP = 6, 17, 1
RST, ECN = 4, 0xC0
SECOND = 1_000_000_000
CURL = Process(pid=7, start_ns=1, comm="curl", name="curl", uid=0, user="root", attribution="sock_diag")
DIG = Process(pid=8, start_ns=2, comm="dig", name="dig", uid=0, user="root", attribution="sock_diag")
GONE = Unknown("process gone", None, None)


def packet(
    dst: str = "192.0.2.1",
    dport: int | None = 443,
    *,
    protocol: int = TCP,
    sport: int | None = 40000,
    flags: int = SYN,
    seq: int = 1,
) -> Packet:
    """A packet from a local address."""
    version = 6 if ":" in dst else 4
    src = packed("2001:db8::7" if version == 6 else "198.51.100.7")
    ports = (sport or 0).to_bytes(2, "little") + (dport or 0).to_bytes(2, "little")
    flow = src + packed(dst) + ports + bytes((protocol, version, 0, 0))
    is_tcp = protocol == TCP
    return Packet(
        flow,
        version,
        protocol,
        src,
        packed(dst),
        sport,
        dport,
        flags if is_tcp else None,
        seq if is_tcp else 0,
        None,
    )


def sighting(seen: Packet, at: float = 1, **more: Any) -> Sighting:
    """A packet at a time in seconds, on both clocks."""
    return Sighting(seen, ts=int(at * SECOND), clock_ns=int(at * SECOND), **more)


class Flows:
    """PacketFlows as an input uses them; `see` says what is reported."""

    def __init__(self, own_pid: int | None = None, **options: Any) -> None:
        self.losses = Losses()
        self.flows = PacketFlows("nflog", FilterOptions(**options), self.losses, own_pid)

    def see(
        self, seen: Packet, answer: Process | Answer | None = CURL, at: float = 1, **more: Any
    ) -> list[Connection]:
        """Take a packet whose process is `answer`."""
        found = sighting(seen, at, **more)
        if not self.flows.opens(seen) or not self.flows.wants(seen) or self.flows.is_repeat(found):
            return []
        record = self.flows.connection(found, Found(answer) if isinstance(answer, Process) else answer)
        return [] if record is None else [record]

    def lines(self) -> list[str]:
        """The counters."""
        self.flows.put_losses()
        return self.losses.lines()


@pytest.mark.parametrize(
    ("flags", "opens"),
    [(SYN, True), (SYN | ECN, True), (SYN | ACK, False), (ACK, False), (RST, False), (8, False)],
)
def test_only_a_syn_opens_a_connection(flags: int, opens: bool) -> None:
    """With ECN bits too; not its answer, and nothing in the middle."""
    assert bool(Flows().see(packet(flags=flags))) is opens


def test_record_of_a_syn() -> None:
    """All that the packet and the look-up told."""
    (record,) = Flows().see(packet(), uid=0)
    assert record == Connection(
        ts=SECOND,
        hook="nflog",
        protocol="tcp",
        ip_version=4,
        dest_ip="192.0.2.1",
        dest_port=443,
        src_ip="198.51.100.7",
        src_port=40000,
        process=CURL,
        attribution="sock_diag",
        socket_uid=0,
    )


def test_syn_sent_again_is_one_connection() -> None:
    """A retransmission, or a packet that two rules log, has the same sequence number; a new attempt another."""
    flows = Flows()
    assert len(flows.see(packet(seq=1))) == 1
    assert flows.see(packet(seq=1), at=2) == []
    assert len(flows.see(packet(seq=2), at=3)) == 1
    assert len(flows.see(packet(seq=1), at=132)) == 1
    assert flows.lines() == ["skipped: 1 SYNs of connections that were reported already"]


def test_flow_is_reported_once_in_a_window_with_its_datagrams() -> None:
    """Then at its next datagram after the window, which counts what came in between."""
    flows = Flows(window=10 * SECOND)
    datagram = packet(protocol=UDP)
    assert [record.count for record in flows.see(datagram, at=1)] == [1]
    assert [flows.see(datagram, at=at) for at in (1.001, 2, 10.9)] == [[], [], []]
    (late,) = flows.see(datagram, at=11)
    assert (late.count, late.ts) == (4, 11 * SECOND)


def test_sweep_reports_what_a_flow_still_owes() -> None:
    """Once its window is over, with the time of the last datagram; all of them at the end."""
    flows = Flows(window=10 * SECOND)
    for at in (1, 2, 3):
        flows.see(packet(protocol=UDP), at=at)
    assert flows.flows.sweep(10 * SECOND) == []
    (rest,) = flows.flows.sweep(11 * SECOND)
    assert (rest.count, rest.ts) == (2, 3 * SECOND)
    assert flows.flows.sweep(None) == []
    assert len(flows.see(packet(protocol=UDP), at=12)) == 1


def test_window_0_reports_each_datagram() -> None:
    """Each is a record, also of one socket."""
    flows = Flows(window=0)
    assert [len(flows.see(packet(protocol=UDP), at=1 + n / 1000)) for n in range(3)] == [1, 1, 1]


def test_flow_is_of_a_process_not_of_a_socket() -> None:
    """Many sockets of one process to one destination are one flow; another process is another."""
    flows = Flows()
    assert len(flows.see(packet(protocol=UDP, sport=1), CURL)) == 1
    assert flows.see(packet(protocol=UDP, sport=2), CURL) == []
    assert len(flows.see(packet(protocol=UDP, sport=3), DIG)) == 1
    assert sorted(record.count for record in flows.flows.sweep(None)) == [1]


def test_port_that_changes_hands_is_looked_up_again() -> None:
    """Another process that gets the port of one that has gone is reported for itself."""
    flows = Flows()
    assert [record.process for record in flows.see(packet(protocol=UDP), CURL, at=1)] == [CURL]
    assert [record.process for record in flows.see(packet(protocol=UDP), DIG, at=1.1)] == [DIG]


def test_without_a_process_a_flow_is_of_its_socket() -> None:
    """Two sockets whose processes have gone may be two processes'."""
    flows = Flows()
    assert len(flows.see(packet(protocol=UDP, sport=1), GONE)) == 1
    assert len(flows.see(packet(protocol=UDP, sport=2), GONE)) == 1
    assert flows.lines() == ["unattributed: 2 process gone"]


def test_unknown_process_is_said_with_its_reason() -> None:
    """In the record and counted."""
    flows = Flows()
    (record,) = flows.see(packet(), Unknown("ambiguous", None, None))
    assert (record.process, record.attribution) == (None, "ambiguous")
    assert flows.lines() == ["unattributed: 1 ambiguous"]


def test_owner_is_known_where_the_process_is_not() -> None:
    """What netfilter says of the socket's owner makes a process with a user alone; the reason stays."""
    (record,) = Flows().see(packet(), GONE, uid=0, gid=0)
    assert record.process == Process(uid=0, gid=0, user="root", attribution="process gone")
    assert record.attribution == "process gone"


@pytest.mark.parametrize("answer", [Found(CURL, 5), Unknown("process gone", 5)])
@pytest.mark.parametrize(("told", "owner"), [(None, 5), (0, 0), (6, 6)])
def test_owner_of_the_socket(answer: Answer, told: int | None, owner: int) -> None:
    """What netfilter tells comes before what the look-up found, which comes before nothing."""
    (record,) = Flows().see(packet(), answer, uid=told)
    assert record.socket_uid == owner


@pytest.mark.parametrize("answer", [Found(CURL), GONE, None])
def test_owner_that_is_not_known(answer: Answer | None) -> None:
    """It is not the process' user, who may be another one."""
    (record,) = Flows().see(packet(), answer)
    assert record.socket_uid is None


def test_own_connections_are_no_events() -> None:
    """Those of pyegress itself."""
    assert Flows(own_pid=7).see(packet(), CURL) == []
    assert len(Flows(own_pid=7).see(packet(), DIG)) == 1


def test_own_connections_that_are_over_are_no_events() -> None:
    """Their ports tell them where no process is found, in what this host sent and a capture at work saw."""
    own = packet(sport=reserve())
    assert Flows(own_pid=7).see(own, GONE) == []
    assert Flows(own_pid=7).see(own, Unknown("process gone", 0, 0)) == []
    assert len(Flows(own_pid=7).see(own, DIG)) == 1
    assert len(Flows(own_pid=7).see(own, GONE, local=False)) == 1
    assert len(Flows().see(own, GONE)) == 1


def test_other_protocols_have_no_port() -> None:
    """An ICMP packet is a flow of its own, by the protocol's number."""
    (record,) = Flows().see(packet(protocol=ICMP, dport=None, sport=None), GONE)
    assert (record.protocol, record.dest_port, record.src_port) == ("1", None, None)


def test_filters_count_every_packet_they_hide() -> None:
    """By destination and by process, also those that only repeat."""
    flows = Flows(ignore_comm=("curl",), ignore_port=(), allow_loopback=False)
    for at in (1, 1.001, 1.5, 20):
        assert flows.see(packet(protocol=UDP), CURL, at=at) == []
    assert flows.see(packet(), CURL) == []
    assert flows.see(packet("127.0.0.1"), DIG) == []
    assert len(flows.see(packet(protocol=UDP), DIG, at=40)) == 1
    assert flows.flows.sweep(None) == []
    assert flows.lines() == [
        "skipped: 5 by ignore-comm:curl",
        "skipped: 1 to loopback (-I nflog:allow-loopback:true shows them)",
    ]


def test_flows_are_bounded_and_what_goes_is_reported() -> None:
    """The oldest is pushed out with its count; what comes of it later is a flow anew."""
    flows = Flows(flows=2)
    for at, port in ((1, 1), (1.001, 1), (2, 2), (3, 3)):
        flows.see(packet(dport=port, protocol=UDP), at=at)
    assert [(record.dest_port, record.count) for record in flows.flows.due()] == [(1, 1)]
    assert flows.flows.due() == []
    assert len(flows.see(packet(dport=1, protocol=UDP), at=3.001)) == 1
    assert flows.lines() == []


def test_interface_is_kept_where_an_address_needs_it() -> None:
    """A link-local destination is only reached by its interface; others don't depend on it."""
    (near,) = Flows().see(packet("fe80::1"), ifindex=1)
    (far,) = Flows().see(packet("2001:db8::1"), ifindex=1)
    assert (near.ifname, far.ifname) == ("lo", None)


def test_verdict_is_in_the_record_and_keeps_flows_apart() -> None:
    """The same flow with another verdict is another record."""
    flows = PacketFlows("nfqueue", FilterOptions(), Losses())
    seen = sighting(packet(protocol=UDP))
    verdicts = [flows.connection(seen, Found(CURL), verdict) for verdict in ("accept", "accept", "drop")]
    assert [record and record.verdict for record in verdicts] == ["accept", None, "drop"]

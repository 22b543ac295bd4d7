# SPDX-License-Identifier: MIT
"""What other tools wrote is counted as they meant it (`make bench-peers`)."""

from __future__ import annotations

import pytest

from bench.peers.catalogue import PEERS, Peer
from bench.peers.reading import Seen, Sought
from tests.traffic import FOLDER

PID, OTHER = 4711, 4712
EXE = FOLDER / "traffic"
AUDIT = f"""type=SYSCALL msg=audit(1.1:7): arch=c000003e syscall=44 ppid=1 pid={PID} auid=0 comm="traffic" exe="{EXE}"
type=SOCKADDR msg=audit(1.1:7): saddr=0200AFC87F0000010000000000000000
type=SYSCALL msg=audit(1.1:8): arch=c000003e syscall=44 ppid=1 pid={OTHER} auid=0 comm="traffic" exe="{EXE}"
type=SOCKADDR msg=audit(1.1:8): saddr=0200AFC87F0000010000000000000000
type=SOCKADDR msg=audit(1.1:9): saddr=0200AFC97F0000010000000000000000
"""


def peer(name: str) -> Peer:
    """The tool whose name begins so."""
    return next(each for each in PEERS if each.name.startswith(name))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "pyegress, fentry",
            "hook=ebpf protocol=udp dest_ip=127.0.0.1 dest_port=45000 ip_version=4 proc_name=traffic"
            f" proc_pid={PID} proc_user=root src_ip=127.0.0.1 src_port=1 count=7 netns=1\n"
            "hook=ebpf protocol=tcp dest_ip=127.0.0.1 dest_port=45000 ip_version=4 proc_name=traffic"
            f" proc_pid={OTHER} proc_user=root src_ip=127.0.0.1 src_port=45000 netns=1\n",
            Seen(8, 7, 1),
        ),
        (
            "bcc tcpconnect",
            f"PID COMM IP SADDR DADDR DPORT\n{PID}   traffic  4  127.0.0.1  127.0.0.1  45000\n"
            f"{PID}   traffic  4  127.0.0.1  127.0.0.1  45001\n",
            Seen(1, 1, 1),
        ),
        (
            "tcpdump",
            "12:00 IP 127.0.0.1.45000 > 127.0.0.1.9: UDP\n12:00 IP 127.0.0.1.9 > 127.0.0.1.45000: UDP\n",
            Seen(1, 0, 1),
        ),
        (
            "nft log group, ulogd2",
            "OUT=lo SRC=127.0.0.1 DST=127.0.0.1 SPT=9 DPT=45000 LEN=9 \n",
            Seen(1, 0, 1),
        ),
        (
            "opensnitch",
            "DBG  new connection udp => 9:127.0.0.1 -> 127.0.0.1:45000 uid: 0\n"
            "DBG  Could not find process by its pid -1 for: 127.0.0.1 (uid:0) ->(udp)-> 127.0.0.1:45000\n",
            Seen(1, 0, 1),
        ),
        ("auditd", AUDIT, Seen(2, 1, 1)),
        (
            "egress-auditor",
            "ts=1 hook=eBPF protocol=udp dest_ip=127.0.0.1 dest_port=45000 ip_version=4 proc_name=traffic"
            f" proc_pid={PID} proc_user=root parent_name=sh\n"
            "ts=1 hook=eBPF protocol=udp dest_ip=127.0.0.1 dest_port=45000"
            f" ip_version=4 proc_name=traffic proc_pid={OTHER} proc_user=root parent_name=sh\n",
            Seen(2, 1, 1),
        ),
    ],
)
def test_what_was_recorded(name: str, text: str, expected: Seen) -> None:
    assert peer(name).read(text, Sought(45000, frozenset((PID,)))) == expected


def test_other_ways_to_send() -> None:
    """IPv6, a protocol without ports, and processes with names of their own."""
    sought = Sought(None, frozenset((PID, OTHER)), "2001:db8::1", ("ping6", "short"))
    logged = (
        f"protocol=58 dest_ip=2001:db8::1 ip_version=6 proc_name=ping6 proc_pid={OTHER} count=4 netns=1\n"
    )
    assert peer("pyegress, fentry").read(logged, sought) == Seen(4, 4, 1)
    assert peer("egress-auditor").read(logged, sought) == Seen(0, 0, 0)
    saddr = "0A001E6100000000" + "20010DB8" + "0" * 22 + "01" + "00000000"
    text = AUDIT.replace("0200AFC87F0000010000000000000000", saddr)
    assert peer("auditd").read(text, sought._replace(port=7777)) == Seen(2, 2, 2)

# SPDX-License-Identifier: MIT
"""The tools that are measured: how each is started, and how what it recorded is read.

In commands, {out} is the folder that the tool may write to, {pypi} that of PyPI's packages.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from bench.peers import LOADS, ORIGINAL, PORT, PROBE_PORT, Load
from bench.peers.reading import Reader, audit, lines

STDOUT = "stdout"
_ONE_BY_ONE = ("stdbuf", "-oL")
"""As on a terminal: these tools write to a file in blocks."""


class Peer(NamedTuple):
    """One tool."""

    name: str
    command: tuple[str, ...]
    read: Reader
    package: str = ""
    """Of Debian; its version is shown."""
    loads: tuple[Load, ...] = LOADS
    record: str = STDOUT
    """The file that it writes its record to, as a path from {out}."""
    setup: tuple[str, ...] = ()
    """Shell commands before, in order."""
    undo: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Paths from {out}, and texts."""
    kernel_threads: tuple[str, ...] = ()
    """Those that work for it."""
    names_processes: bool = True
    started: str = ""
    """What it says once it observes, for one that would hold up what asks before."""
    why_not: str = ""
    """Why it can't be measured, where its program isn't there."""


def _pyegress(name: str, attach: str, *options: str, loads: tuple[Load, ...] = LOADS) -> Peer:
    given = ("allow-loopback:true", "quiet:true", f"attach:{attach}", *options)
    command = [sys.executable, "-m", "pyegress", "run", "--ebpf"]
    for option in given:
        command += ["-I", f"ebpf:{option}"]
    return Peer(
        name,
        (*command, "-o", "logfmt", "-O", "logfmt:file:{out}/log"),
        lines(
            r" dest_ip={target} dest_port={port} (?:.* count=(?P<count>\d+))?",
            " proc_name={comm} proc_pid={pid} ",
            portless=r" dest_ip={target} ip_version=(?:.* count=(?P<count>\d+))?",
        ),
        record="log",
        loads=loads,
    )


_COLUMNS = lines(r"\b{target}\s+{port}\b", r"\b{pid}\s+{comm}\b")
_UDP_BY_BPFTRACE = """kprobe:udp_sendmsg {
 $to = (struct sockaddr_in *)((struct msghdr *)arg1)->msg_name;
 printf("%d %s %s %d\\n", pid, comm, ntop($to->sin_addr.s_addr), bswap($to->sin_port));
}"""
_DPORTS = f"ip protocol {{ tcp, udp }} th dport {{ {PORT}, {PROBE_PORT} }}"
_BY_NFT = (
    "nft add table ip peers",
    "nft 'add chain ip peers out { type filter hook output priority 0; }'",
    f"nft 'add rule ip peers out {_DPORTS} ct state new log group 5'",
)
_NO_NFT = ("nft delete table ip peers",)
_TO_PORTS = f"(udp or tcp) and (dst port {PORT} or dst port {PROBE_PORT})"
_ULOGD = """[global]
logfile="{out}/ulogd.log"
stack=log1:NFLOG,base1:BASE,ifi1:IFINDEX,ip2str1:IP2STR,print1:PRINTPKT,emu1:LOGEMU
[log1]
group=5
[emu1]
file="{out}/packets"
sync=1
"""
_AUDITD = """local_events = yes
log_file = {out}/audit.log
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 64
num_logs = 2
max_log_file_action = IGNORE
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
plugin_dir = {out}
q_depth = 20000
"""
_AUDIT_RULES = (
    "auditctl -b 65536",
    "auditctl -a always,exit -F arch=b64 -S connect,sendto -k egress",
)
_PICOSNITCH_FOLDER = "/root/.config/picosnitch"
_PICOSNITCH = """{"Config": {"DB text log": true, "DB write limit (seconds)": 1, "Desktop notifications": false}}
"""

PEERS: tuple[Peer, ...] = (
    _pyegress("pyegress, fentry", "fentry"),
    _pyegress("pyegress, kprobe", "kprobe"),
    _pyegress("pyegress, fentry, without names", "fentry", "names:none"),
    _pyegress("pyegress, kprobe, without names", "kprobe", "names:none"),
    _pyegress("pyegress, fentry, window 0: each datagram", "fentry", "window:0", loads=("udp",)),
    Peer("libbpf-tools tcpconnect", (*_ONE_BY_ONE, "tcpconnect"), _COLUMNS, "libbpf-tools", ("tcp",)),
    Peer("bcc tcpconnect", ("tcpconnect-bpfcc",), _COLUMNS, "bpfcc-tools", ("tcp",)),
    Peer(
        "bpftrace tcpconnect.bt",
        ("bpftrace", "-B", "line", "/usr/sbin/tcpconnect.bt"),
        lines(r"\b{target}\s+{port}\b", r"\b{pid}\s+{comm}\b"),
        "bpftrace",
        ("tcp",),
    ),
    Peer(
        "bpftrace, udp_sendmsg",
        ("bpftrace", "-B", "line", "-e", _UDP_BY_BPFTRACE),
        _COLUMNS,
        "bpftrace",
        ("udp",),
    ),
    Peer(
        "tcpdump -i lo",
        ("tcpdump", "-l", "-n", "-i", "lo", f"{_TO_PORTS} and (udp or tcp[tcpflags] & tcp-syn != 0)"),
        lines(r" > {target}\.{port}: "),
        "tcpdump",
        names_processes=False,
    ),
    Peer(
        "nft log group, tcpdump -i nflog",
        ("tcpdump", "-l", "-n", "-i", "nflog:5"),
        lines(r" > {target}\.{port}: "),
        "tcpdump",
        setup=_BY_NFT,
        undo=_NO_NFT,
        names_processes=False,
    ),
    Peer(
        "nft log group, ulogd2",
        ("ulogd", "-c", "{out}/ulogd.conf"),
        lines(r" DPT={port} ", portless=r" PROTO=(?!TCP|UDP)"),
        "ulogd2",
        record="packets",
        setup=_BY_NFT,
        undo=_NO_NFT,
        files=(("ulogd.conf", _ULOGD),),
        names_processes=False,
    ),
    Peer(
        "picosnitch 1.0.3",
        (
            "env",
            "SUDO_UID=0",
            "PYTHONPATH={pypi}",
            "/usr/bin/python3",
            "{pypi}/picosnitch.py",
            "start-no-daemon",
        ),
        lines(r"^[^,]*,(?P<count>\d+),.*,{port},", ",{comm},"),
        record=f"{_PICOSNITCH_FOLDER}/conn.log",
        files=((f"{_PICOSNITCH_FOLDER}/config.json", _PICOSNITCH),),
    ),
    Peer(
        "opensnitch",
        ("opensnitchd", "-debug", "-process-monitor-method", "proc", "-rules-path", "{out}/rules"),
        lines(r"new connection \w+ => .* -> {target}:{port}\b"),
        "opensnitch",
        setup=("mkdir -p {out}/rules",),
        # It leaves its rules when it doesn't end in time.
        undo=("nft flush ruleset",),
        started="Running on netfilter queue",
        # To its user interface alone, which isn't there.
        names_processes=False,
    ),
    Peer(
        "auditd, connect and sendto",
        ("auditd", "-n", "-c", "{out}"),
        audit,
        "auditd",
        record="audit.log",
        setup=("chmod 700 {out}",),
        undo=("auditctl -D", "auditctl -e 0"),
        files=(("auditd.conf", _AUDITD),),
        kernel_threads=("kauditd",),
    ),
    Peer(
        "sysdig",
        (),
        lines(""),
        "sysdig",
        why_not="Debian's needs its kernel module, built by DKMS; no other driver is in it",
    ),
    Peer(
        "egress-auditor",
        (
            str(ORIGINAL),
            *("-i", "ebpf", "-I", "ebpf:allow-loopback:true", "-I", "ebpf:quiet:true"),
            *("-o", "logfmt", "-O", "logfmt:file:{out}/log"),
        ),
        lines(r" dest_ip={target} dest_port={port} ", " proc_name={comm} proc_pid={pid} "),
        record="log",
        why_not="in neither Debian, PyPI nor Go's proxy: --original measures one that you built from its source",
    ),
)

_ALL_BY_NFT = (
    "nft add table inet peers",
    "nft 'add chain inet peers out { type filter hook output priority 0; }'",
    "nft 'add rule inet peers out ct state new log group 5'",
)


def scored() -> list[Peer]:
    """Those that say what they see of all ways to send: one of each, asked for all. tcpdump is told each packet."""
    left_out = ("without names", "window 0", "tcpdump -i", "sysdig")
    return [
        peer._replace(setup=_ALL_BY_NFT, undo=("nft delete table inet peers",))
        if peer.setup == _BY_NFT
        else peer
        for peer in PEERS
        if not any(part in peer.name for part in left_out)
    ]


AFTER_START: dict[str, tuple[str, ...]] = {"auditd, connect and sendto": _AUDIT_RULES}

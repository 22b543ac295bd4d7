# SPDX-License-Identifier: MIT
"""A host in namespaces: users and units that send, and a recorder of what left through the firewall.

The cgroups are real and the host's own; their names are the tests'. Sending waits for nothing: the first packet of a
connection has passed the firewall, or has not, when the system call returns.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.island import PATIENCE_S, Island

UNITS = ("pyegress-truth.slice/one.service", "pyegress-truth.slice/two.service")
NET_4, NET_6 = "198.51.100.", "2001:db8:77::"
LINK_LOCAL = "fe80::77"
DEVICE = "swallow"

_LAYOUT = f"""
set -e
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
mkdir -p {" ".join(f"/sys/fs/cgroup/{unit}" for unit in UNITS)}
ip link set lo up
ip link add {DEVICE} type veth peer name swallowed
ip link set {DEVICE} arp off
ip address add 192.0.2.7/24 dev {DEVICE}
ip -6 address add 2001:db8:7::7/64 dev {DEVICE} nodad
ip link set swallowed up
ip link set {DEVICE} up
ip route add 198.51.100.0/24 dev {DEVICE}
ip -6 route add 2001:db8:77::/48 dev {DEVICE}
echo ready
exec sleep infinity
"""
# The last hook that a packet passes: what is in these sets has left.
_RECORDER = """
table inet recorder {
  set v4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 65535; }
  set v6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 65535; }
  chain left {
    type filter hook postrouting priority 300;
    meta l4proto { tcp, udp } update @v4 { ip daddr . meta l4proto . th dport }
    meta l4proto { tcp, udp } update @v6 { ip6 daddr . meta l4proto . th dport }
  }
}
"""
_ACTOR = r"""
import json, os, socket, sys
uid, unit = int(sys.argv[1]), sys.argv[2]
with open(f"/sys/fs/cgroup/{unit}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
for line in sys.stdin:
    for protocol, address, port, device in json.loads(line):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        made.setblocking(False)
        scope = socket.if_nametoindex(device) if device else 0
        where = (address, port) if family == socket.AF_INET else (address, port, 0, scope)
        try:
            made.connect_ex(where) if protocol == "tcp" else made.sendto(b"x", where)
        except PermissionError:
            pass
        made.close()
    print("sent", flush=True)
"""


# Python and the modules take longer to start than a command takes, in a guest ten times as long.
_COMMANDS = r"""
import json, os, runpy, sys, tempfile
told, stdout = [], os.dup(1)
for words in json.load(sys.stdin):
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        sys.argv, code = ["pyegress", *words], 0
        try:
            runpy.run_module("pyegress", run_name="__main__")
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        os.dup2(stdout, 1)
        said.seek(0)
        told.append(said.read().decode())
    if code:
        sys.exit(f"{words}: exit status {code}: {told[-1]}")
json.dump(told, sys.stdout)
"""


class Actor(NamedTuple):
    """Who sends."""

    uid: int
    unit: str
    """Path of its cgroup."""


class Sent(NamedTuple):
    """The first packet of a connection."""

    protocol: str
    address: str
    port: int
    device: str | None = None
    """For link-local addresses."""


class World(Island):
    """The namespaces, and processes inside."""

    def __init__(self) -> None:
        super().__init__(_LAYOUT, ("net", "mnt"))
        self._actors: dict[Actor, subprocess.Popen[str]] = {}
        self.run("nft", "-f", "-", text=_RECORDER)

    def close(self) -> None:
        """End all of it."""
        for process in self._actors.values():
            process.communicate(timeout=PATIENCE_S)
        self.run("sh", "-c", f"cd /sys/fs/cgroup && rmdir {' '.join(UNITS)} {Path(UNITS[0]).parent}")
        super().close()

    def send(self, actor: Actor, sent: Iterable[Sent]) -> set[Sent]:
        """Have an actor send; which of it left."""
        wanted = list(sent)
        process = self._actors.get(actor) or self._started(actor)
        assert process.stdin is not None and process.stdout is not None
        self.run("nft", "; ".join(f"flush set inet recorder {family}" for family in ("v4", "v6")))
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"
        left = self._left()
        return {each for each in wanted if (each.address, each.protocol, each.port) in left}

    def pyegress(self, commands: Iterable[Sequence[str | Path]]) -> list[str]:
        """What several command lines write to stdout; each must end with status 0."""
        words = [[str(word) for word in command] for command in commands]
        told: list[str] = json.loads(self.run(sys.executable, "-c", _COMMANDS, text=json.dumps(words)))
        return told

    def cgroup_id(self, unit: str) -> int:
        """Number of a unit's cgroup."""
        return int(self.run("stat", "-c", "%i", f"/sys/fs/cgroup/{unit}"))

    def _started(self, actor: Actor) -> subprocess.Popen[str]:
        command = self.inside(sys.executable, "-c", _ACTOR, actor.uid, actor.unit)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._actors[actor] = process
        return process

    def _left(self) -> set[tuple[str, str, int]]:
        found = set()
        listed = json.loads(self.run("nft", "-j", "-n", "list", "table", "inet", "recorder"))
        for made in [each["set"] for each in listed["nftables"] if "set" in each]:
            for element in made.get("elem", ()):
                address, protocol, port = element["concat"]
                found.add((address, {6: "tcp", 17: "udp"}.get(protocol, protocol), port))
        return found


@contextmanager
def world() -> Iterator[World]:
    """One that ends with the block."""
    made = World()
    try:
        yield made
    finally:
        made.close()


class Firewall(NamedTuple):
    """How rules get into the kernel and out of it."""

    loaders: tuple[tuple[str, ...], ...]
    """A command for each file, which it reads on stdin."""
    unloaders: tuple[tuple[str, ...], ...]

    def load(self, host: World, texts: Iterable[str]) -> None:
        """Load each file."""
        for command, text in zip(self.loaders, texts, strict=True):
            host.run(*command, text=text)

    def unload(self, host: World) -> None:
        """Have nothing of it left."""
        for command in self.unloaders:
            host.run(*command)


def _iptables(backend: str) -> Firewall:
    programs = (f"iptables-{backend}", f"ip6tables-{backend}")
    return Firewall(
        tuple((f"{program}-restore", "--noflush") for program in programs),
        tuple((program, flag) for flag in ("-F", "-X") for program in programs),
    )


FIREWALLS = {
    "nft": Firewall((("nft", "-f", "-"),), (("nft", "delete", "table", "inet", "pyegress"),)),
    "iptables-nft": _iptables("nft"),
    "iptables-legacy": _iptables("legacy"),
}

needs_firewalls = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(map(shutil.which, ("nft", "iptables-nft-restore", "iptables-legacy-restore"))),
    reason="needs root, nft and both iptables",
)

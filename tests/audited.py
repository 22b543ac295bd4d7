# SPDX-License-Identifier: MIT
"""The truth test from one end to the other: audit, log, rules by the command line, firewall, the same traffic again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from tests.truth import DEVICE, FIREWALLS, LINK_LOCAL, NET_4, NET_6, UNITS, Actor, Sent, World, world

ONE, TWO = UNITS
ROOT, ALICE, BOB = Actor(0, ONE), Actor(1000, ONE), Actor(1001, TWO)
SEEN: dict[Actor, list[Sent]] = {
    ROOT: [
        Sent("udp", NET_4 + "53", 53),
        Sent("udp", NET_6 + "53", 53),
        Sent("udp", LINK_LOCAL, 123, DEVICE),
    ],
    ALICE: [
        *(Sent("tcp", NET_4 + host, 443) for host in ("8", "9", "11")),
        *(Sent("tcp", NET_6 + host, 443) for host in ("8", "9", "b")),
        Sent("tcp", NET_4 + "8", 80),
        Sent("udp", NET_4 + "8", 443),
    ],
    BOB: [Sent("tcp", NET_4 + "200", 22), Sent("tcp", NET_6 + "200", 22), Sent("udp", NET_4 + "53", 53)],
}
NEVER = [
    *(Sent(protocol, NET_4 + "77", port) for protocol in ("tcp", "udp") for port in (22, 53, 443)),
    *(Sent(protocol, NET_6 + "77", port) for protocol in ("tcp", "udp") for port in (22, 53, 443)),
    Sent("tcp", NET_4 + "53", 53),
    Sent("udp", NET_4 + "9", 443),
    Sent("tcp", NET_4 + "9", 80),
    Sent("tcp", NET_6 + "8", 80),
    Sent("udp", LINK_LOCAL, 124, DEVICE),
]
"""Other addresses, ports and protocols than anybody's."""
ALL = list(dict.fromkeys([*(sent for each in SEEN.values() for sent in each), *NEVER]))


class Way(NamedTuple):
    """One way to make rules and to load them."""

    firewall: str
    scope: str
    merge: str
    policy: str = "drop"


def audited_rules_hold(folder: Path, ways: list[Way]) -> None:
    """Audit once, and try each way."""
    log = folder / "seen.log"
    with world() as host:
        options = [f"ebpf:only-cidr:{cidr}" for cidr in (NET_4 + "0/24", NET_6 + "/48", LINK_LOCAL)]
        given = [word for option in [*options, "ebpf:quiet:true"] for word in ("-I", option)]
        with host.audit("-i", "ebpf", *given, "-o", "logfmt", "-O", f"logfmt:file:{log}") as audit:
            for actor, sent in SEEN.items():
                assert host.send(actor, sent) == set(sent)
        assert audit.done.code == 0, audit.done.err
        for way in ways:
            holds(host, folder, log, way)


def holds(host: World, folder: Path, log: Path, way: Way) -> None:
    """Whether what was seen, and nothing else, leaves."""
    firewall = FIREWALLS[way.firewall]
    files = rule_files(host, folder, log, way)
    verify = [word for file in files for word in ("--verify", str(file))]
    told = host.run(sys.executable, "-m", "pyegress", "rules", *verify, log)
    assert " would be dropped" in told and told.startswith("0 of "), told
    firewall.load(host, [file.read_text() for file in files])
    try:
        for actor in SEEN:
            mine = {sent for other, each in SEEN.items() if same(way.scope, actor, other) for sent in each}
            assert host.send(actor, ALL) == mine, way
    finally:
        firewall.unload(host)


def rule_files(host: World, folder: Path, log: Path, way: Way) -> list[Path]:
    """Rules from the log, by the command line."""
    path = folder / "rules"
    form = "nftables" if way.firewall == "nft" else "restore"
    words = ["--as", form, "--scope", way.scope, "--merge", way.merge, "--policy", way.policy]
    host.run(sys.executable, "-m", "pyegress", "rules", *words, "--max-extra", "1", "--file", path, log)
    return [path] if form == "nftables" else [Path(f"{path}.v4"), Path(f"{path}.v6")]


def same(scope: str, actor: Actor, other: Actor) -> bool:
    """Whether rules of that scope take two for the same."""
    return {"any": True, "user": actor.uid == other.uid, "unit": actor.unit == other.unit}[scope]

# SPDX-License-Identifier: MIT
"""The truth test from one end to the other: audit, log, rules by the command line, firewall, the same traffic again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, product
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
    policy: str

    @property
    def form(self) -> str:
        """For --as."""
        return "nftables" if self.firewall == "nft" else "restore"

    def file(self, folder: Path) -> Path:
        """For --file."""
        return folder / "-".join((self.form, *self[1:]))

    def files(self, folder: Path) -> list[Path]:
        """What is made of it."""
        file = self.file(folder)
        return [file] if self.form == "nftables" else [Path(f"{file}.v4"), Path(f"{file}.v6")]


SCOPES, MERGES, POLICIES = ("any", "user", "unit"), ("exact", "ports", "prefix"), ("drop", "reject")
EVERY_WAY = [Way(*each, policy) for each, policy in zip(product(FIREWALLS, SCOPES, MERGES), cycle(POLICIES))]
"""Each firewall, in every scope and merge mode; the policies take turns."""
EVERY_PAIR = [
    Way(firewall, scope, MERGES[(one + other) % 3], POLICIES[(one + other) % 2])
    for one, firewall in enumerate(FIREWALLS)
    for other, scope in enumerate(SCOPES)
]
"""Those of them in which each firewall meets each scope and merge mode, and these each other."""


def audit(host: World, *outputs: str, times: int = 1) -> None:
    """Audit what everybody sends, so many times; with the options of the outputs."""
    options = [f"ebpf:only-cidr:{cidr}" for cidr in (NET_4 + "0/24", NET_6 + "/48", LINK_LOCAL)]
    given = [word for option in [*options, "ebpf:quiet:true"] for word in ("-I", option)]
    with host.audit("-i", "ebpf", *given, *outputs) as running:
        for actor, sent in list(SEEN.items()) * times:
            assert host.send(actor, sent) == set(sent)
    assert running.done.code == 0, running.done.err


def audited_rules_hold(folder: Path, ways: Sequence[Way]) -> None:
    """Audit once, and try each way."""
    log = folder / "seen.log"
    with world() as host:
        audit(host, "-o", "logfmt", "-O", f"logfmt:file:{log}")
        make_rules(host, folder, ways, log)
        for way in ways:
            holds(host, folder, way)


def make_rules(host: World, folder: Path, ways: Iterable[Way], log: Path) -> None:
    """Rules from the log, and their proof, by the command line."""
    once = {way.file(folder): way for way in ways}
    host.pyegress(
        [
            *("rules", "--as", way.form, "--scope", way.scope, "--merge", way.merge),
            *("--policy", way.policy, "--max-extra", "1", "--file", file, log),
        ]
        for file, way in once.items()
    )
    told = host.pyegress(
        ["rules", *(word for file in way.files(folder) for word in ("--verify", file)), log]
        for way in once.values()
    )
    for text in told:
        assert text.startswith("0 of ") and " would be dropped" in text, text


def holds(host: World, folder: Path, way: Way) -> None:
    """Whether what was seen, and nothing else, leaves."""
    firewall = FIREWALLS[way.firewall]
    firewall.load(host, [file.read_text() for file in way.files(folder)])
    try:
        for actor in SEEN:
            mine = {sent for other, each in SEEN.items() if same(way.scope, actor, other) for sent in each}
            assert host.send(actor, ALL) == mine, way
    finally:
        firewall.unload(host)


def same(scope: str, actor: Actor, other: Actor) -> bool:
    """Whether rules of that scope take two for the same."""
    return {"any": True, "user": actor.uid == other.uid, "unit": actor.unit == other.unit}[scope]

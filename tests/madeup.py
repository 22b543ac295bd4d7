# SPDX-License-Identifier: MIT
"""The truth test: rules are loaded with a policy that stops the rest, and the same traffic is sent again.

What was observed leaves, and nothing else does but what the rules say they are too wide by. Asked are real packets;
what was observed is made up.
"""

from __future__ import annotations

from hypothesis import strategies as st

from pyegress.losses import Losses
from pyegress.outputs.iptables import Iptables, IptablesOptions
from pyegress.outputs.nftables import NftablesOptions
from pyegress.outputs.rulefile import cgroup_presence
from pyegress.record import Connection, Process
from pyegress.rules import nft
from pyegress.rules.addresses import target_of
from pyegress.rules.model import Observations
from pyegress.rules.options import MaxExtra
from pyegress.rules.shape import Plan, plan
from tests.audited import same
from tests.truth import DEVICE, FIREWALLS, LINK_LOCAL, NET_4, NET_6, UNITS, Actor, Sent, World

ACTORS = [Actor(uid, unit) for uid in (0, 1000, 1001) for unit in UNITS]
POOL = [
    Sent(protocol, address, port)
    for protocol in ("tcp", "udp")
    for address in (
        *(NET_4 + host for host in ("128", "129", "131", "140", "200")),
        *(NET_6 + host for host in ("10", "11", "13", "ffff")),
    )
    for port in (53, 80, 81, 65535)
] + [Sent("udp", LINK_LOCAL, 53, DEVICE), Sent("tcp", LINK_LOCAL, 80, DEVICE)]
SEEN = st.sets(st.tuples(st.sampled_from(ACTORS), st.sampled_from(POOL)), min_size=1, max_size=25)
OPTIONS = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(["any", "user", "unit"]),
        "merge": st.sampled_from(["exact", "ports", "prefix"]),
        "policy": st.sampled_from(["drop", "reject"]),
        "max_extra": st.sampled_from(["0", "2", "/28"]).map(MaxExtra.read),
    }
)


def rules_hold(host: World, firewall: str, seen: set[tuple[Actor, Sent]], options: dict[str, object]) -> None:
    """Everybody sends everything; what leaves is what was seen, of those that the scope can't tell apart."""
    made = planned(host, seen, options)
    FIREWALLS[firewall].load(host, texts(made, firewall))
    try:
        for actor in ACTORS:
            left = host.send(actor, POOL)
            mine = {sent for other, sent in seen if same(made.options.scope, actor, other)}
            assert mine <= left
            assert left == (
                mine
                if made.options.merge != "prefix"
                else {sent for sent in POOL if allows(made, actor, sent)}
            )
    finally:
        FIREWALLS[firewall].unload(host)
    if made.options.merge == "prefix":
        assert all(made.options.max_extra.allows(rule.network, rule.used) for rule in made.rules)


def texts(made: Plan, firewall: str) -> list[str]:
    """The files."""
    if firewall == "nft":
        # nft looks for cgroups where the world has them mounted, not this process.
        return ["".join(f"{line}\n" for line in nft.lines(made, nft.TABLE, cgroup_presence()))]
    output4 = Iptables(IptablesOptions(format="restore", file="x"))
    return ["".join(f"{line}\n" for line in output4.lines(made, ending)) for ending in output4.endings]


def connection(cgroup_id: int, actor: Actor, sent: Sent) -> Connection:
    """What an audit makes of it."""
    process = Process(
        pid=7,
        name="sender",
        uid=actor.uid,
        user=str(actor.uid),
        cgroup=f"/{actor.unit}",
        cgroup_id=cgroup_id,
        unit=actor.unit.rpartition("/")[2],
    )
    return Connection(
        1,
        "ebpf",
        sent.protocol,
        6 if ":" in sent.address else 4,
        sent.address,
        sent.port,
        ifname=sent.device,
        process=process,
        attribution="kernel",
        socket_uid=actor.uid,
    )


def planned(host: World, seen: set[tuple[Actor, Sent]], options: dict[str, object]) -> Plan:
    """The rules for it."""
    observations = Observations("test", Losses(), live=False)
    cgroup_ids = {unit: host.cgroup_id(unit) for unit in UNITS}
    observations.add(connection(cgroup_ids[actor.unit], actor, sent) for actor, sent in seen)
    return plan(observations, NftablesOptions(**options))  # type: ignore[arg-type]


def allows(made: Plan, actor: Actor, sent: Sent) -> bool:
    """Whether a rule is for that, by its fields."""
    target = target_of(sent.address)
    assert target is not None
    return any(
        rule.protocol == sent.protocol
        and rule.network.family == target.network.family
        and (rule.network.first ^ target.network.first) < rule.network.addresses
        and any(first <= sent.port <= last for first, last in rule.ports)
        and rule.ifname == sent.device
        and rule.who.uid in (None, actor.uid)
        and rule.who.unit in (None, actor.unit)
        for rule in made.rules
    )

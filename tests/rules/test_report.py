# SPDX-License-Identifier: MIT
"""One JSON document, whatever the names are."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules import report
from pyegress.rules.addresses import Family
from pyegress.rules.options import Merge, RuleOptions, Scope
from pyegress.rules.report import Report
from pyegress.rules.shape import plan
from tests.rules.observed import connections, observed


def document(seen: Iterable[Connection], losses: Losses | None = None, **options: object) -> Report:
    made = plan(observed(seen, losses), RuleOptions(**options))  # type: ignore[arg-type]
    return msgspec.json.decode("\n".join(report.lines(made)), type=Report, strict=True)


def test_everything_that_is_known() -> None:
    process = Process(
        pid=1,
        name="cu\nrl\udcff",
        exe="/usr/bin/curl",
        uid=5,
        user="five",
        unit="a.service",
        cgroup="/a.service",
        cgroup_id=3,
        container="web",
        cmdline="curl -u me:secret x",
        parent=Process(pid=2, name="sh"),
    )
    given = {"ifname": "eth0", "process": process, "dest_names": ("a.example",), "attribution": "kernel"}
    seen = [
        Connection(1_000_000_000, "ebpf", "tcp", 4, "169.254.0.1", 443, count=3, **given),  # type: ignore[arg-type]
        Connection(2_000_000_000, "ebpf", "tcp", 4, "169.254.0.1", 443, **given),  # type: ignore[arg-type]
    ]
    losses = Losses()
    losses.add("lost", "ring buffer full", 2)
    made = plan(observed(seen, losses), RuleOptions(scope="user", redact=False))
    lines = list(report.lines(made))
    assert len(lines) == 3
    assert json.loads("".join(lines)) == {
        "evidence": {
            "since": "1970-01-01T00:00:01Z",
            "until": "1970-01-01T00:00:02Z",
            "last_new": "1970-01-01T00:00:01Z",
            "connections": 2,
            "destinations": 1,
            "losses": [{"reason": "ring buffer full", "count": 2}],
            "unattributed": [],
            "from_logs": True,
        },
        "scope": "user",
        "merge": "exact",
        "width": 0,
        "rules": [
            {
                "family": 4,
                "protocol": "tcp",
                "network": "169.254.0.1",
                "ports": [[443, 443]],
                "ifname": "eth0",
                "uid": 5,
                "user": "five",
                "count": 4,
                "first_seen": "1970-01-01T00:00:01Z",
                "last_seen": "1970-01-01T00:00:02Z",
                "programs": [
                    {
                        "name": "cu\\nrl\\udcff",
                        "exe": "/usr/bin/curl",
                        "user": "five",
                        "unit": "a.service",
                        "container": "web",
                        "parent": "sh",
                        "count": 4,
                    }
                ],
                "names": ["a.example"],
                "hook": "ebpf",
                "cmdline": "curl -u me:secret x",
            }
        ],
    }
    hidden = document(seen).rules[0].cmdline
    assert hidden is not None and "secret" not in hidden


@settings(deadline=None)
@given(connections, st.sampled_from(["any", "user", "unit"]), st.sampled_from(["exact", "ports", "prefix"]))
def test_rules_are_those_of_the_plan(seen: list[Connection], scope: Scope, merge: Merge) -> None:
    """All, in their order, in lines that are safe anywhere."""
    made = plan(observed(seen), RuleOptions(scope=scope, merge=merge))
    lines = list(report.lines(made))
    assert all(line.isprintable() for line in lines)
    read = msgspec.json.decode("\n".join(lines), type=Report)
    assert read.width == made.unseen
    assert [
        (rule.network, rule.ports, rule.uid, rule.count, rule.unseen, rule.widened) for rule in read.rules
    ] == [
        (str(rule.network), rule.ports, rule.who.uid, rule.seen.count, rule.unseen, rule.widened)
        for rule in made.rules
    ]
    assert sum(rule.count for rule in read.rules) == len(seen)


@pytest.mark.parametrize("family", [4, 6])
def test_one_family(family: Family) -> None:
    """Also where nothing is left of it."""
    made = plan(observed([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)]), RuleOptions())
    read = json.loads("".join(report.lines(made, (family,))))
    assert [rule["family"] for rule in read["rules"]] == [4] * (family == 4)

# SPDX-License-Identifier: MIT
"""What files of rules tell in their comments."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules import wording
from pyegress.rules.options import MaxExtra, RuleOptions, Scope
from pyegress.rules.shape import Plan, plan
from tests.rules.observed import connections, observed

_SECOND = 1_000_000_000
CURL = Process(
    pid=300,
    name="curl",
    exe="/usr/bin/curl",
    user="ubuntu",
    unit="a.service",
    container="web",
    cmdline="curl -s x",
    parent=Process(pid=2, name="bash", user="root", parent=Process(pid=1, name="my init")),
)


def seen(ts: int = _SECOND, dest_ip: str = "192.0.2.1", protocol: str = "tcp", **more: object) -> Connection:
    given: dict[str, object] = {"process": CURL, "attribution": "kernel"} | more
    return Connection(ts, "ebpf", protocol, 6 if ":" in dest_ip else 4, dest_ip, 443, **given)  # type: ignore[arg-type]


def planned(*given: Connection, losses: Losses | None = None, **options: object) -> Plan:
    return plan(observed(given, losses), RuleOptions(**options))  # type: ignore[arg-type]


def test_upstream() -> None:
    (rule,) = planned(seen()).rules
    assert list(wording.upstream_lines(rule, 0, True)) == []
    assert list(wording.upstream_lines(rule, 1, True)) == ["[ebpf] Line generated for curl running as ubuntu"]
    assert list(wording.upstream_lines(rule, 2, True)) == [
        '[ebpf] Line generated for curl running as ubuntu with command "curl -s x"',
        "[ebpf] Parent of this process was bash running as root",
        '[ebpf] Grandparent of this process was "my init"',
    ]


def test_secrets_in_arguments_are_hidden_unless_wanted() -> None:
    process = Process(pid=1, name="curl", cmdline="curl -u me:secret x")
    (rule,) = planned(seen(process=process)).rules
    hidden, shown = (list(wording.upstream_lines(rule, 2, redact)) for redact in (True, False))
    assert "secret" not in hidden[0] and "curl" in hidden[0]
    assert "curl -u me:secret x" in shown[0]


def test_provenance() -> None:
    given = [seen(dest_names=("a.example", "b c")), seen(61 * _SECOND), seen(process=None)]
    (rule,) = planned(*given).rules
    assert list(wording.provenance_lines(rule, 0, True)) == []
    assert list(wording.provenance_lines(rule, 1, True)) == [
        "3 connections from 1970-01-01T00:00:01Z to 1970-01-01T00:01:01Z",
        'by curl "/usr/bin/curl" running as ubuntu in a.service of container web started by bash: 2',
        "by an unknown process: 1",
        'names: a.example, "b c"',
    ]
    assert list(wording.provenance_lines(rule, 2, True))[-3:] == list(wording.upstream_lines(rule, 2, True))


def test_evidence() -> None:
    losses = Losses()
    losses.add("lost", "ring buffer\nfull", 5)
    nobody = seen(dest_ip="192.0.2.3", attribution="process gone", process=None)
    lines = list(
        wording.evidence_lines(
            planned(
                seen(),
                seen(3601 * _SECOND),
                nobody,
                losses=losses,
                merge="prefix",
                scope="user",
                max_extra=MaxExtra.read("2"),
            )
        )
    )
    assert lines == [
        "observed: 1h from 1970-01-01T00:00:01Z to 1970-01-01T01:00:01Z",
        "seen: 3 records, 2 distinct destinations, the last new one 1h before the end",
        "width: 2 addresses allowed that nobody used",
        "scope: 1 rule for every process, because the user is not known or cannot be written",
        "process not known: 1 record (process gone)",
        "lost: 5 (ring buffer\\nfull)",
        "INCOMPLETE: some connections were not recorded, so rules for them may be missing",
    ]
    assert list(wording.evidence_lines(planned(seen())))[-1].startswith("A log does not tell")


def test_frames_of_af_packet_are_told() -> None:
    """No rule is made of them, and that is said."""
    plan = planned(seen(), seen(protocol="packet-udp", dest_ip="192.0.2.3"))
    assert len(plan.rules) == 1
    (line,) = wording.passing_by_lines(plan.evidence)
    assert line.startswith("not covered: 1 record of AF_PACKET sockets")
    assert line in wording.evidence_lines(plan)


@pytest.mark.parametrize(
    ("given", "scope", "line"),
    [
        (seen(dest_ip="fe80::1"), "any", "[ebpf] Its interface is not known: this link-local rule holds"),
        (seen(protocol="132"), "any", "[ebpf] Its port is not compared: this rule holds for every port of"),
        (seen(), "unit", "[ebpf] Whose it was is not known or cannot be written: this rule holds for every"),
        (seen(), "user", "[ebpf] Whose it was is not known or cannot be written: this rule holds for every"),
    ],
)
def test_caution(given: Connection, scope: Scope, line: str) -> None:
    (rule,) = planned(given, scope=scope).rules
    assert [told[: len(line)] for told in wording.caution_lines(rule)] == [line]
    (harmless,) = planned(seen()).rules
    assert list(wording.caution_lines(harmless)) == []


def test_caution_of_width() -> None:
    (rule,) = planned(seen(), seen(dest_ip="192.0.2.2"), merge="prefix").rules
    assert list(wording.caution_lines(rule)) == ["[ebpf] 2 addresses allowed that nobody used, 2 used"]


@settings(deadline=None)
@given(connections)
def test_one_line_each_and_inert(given: list[Connection]) -> None:
    """What a shell would act upon, an apostrophe too, stands in double quotes behind a backslash."""
    made = planned(*given, scope="user")
    lines = list(wording.evidence_lines(made))
    for rule in made.rules:
        lines += [*wording.provenance_lines(rule, 2, True), *wording.caution_lines(rule)]
    for line in lines:
        assert line.isprintable()
        assert len(line.encode()) < 8192
        outside = re.sub(r'"(?:[^"\\$`!]|\\["\\$`])*"', "", line)
        assert re.fullmatch(r"[A-Za-z0-9 #\[\].,:()/_+@-]*", outside)

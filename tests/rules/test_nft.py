# SPDX-License-Identifier: MIT
"""The real nft loads what is written, and holds what was meant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyegress.record import Connection, Process
from pyegress.rules import nft
from pyegress.rules.addresses import target_of
from pyegress.rules.baseline import Servers
from pyegress.rules.bynames import name_rules, name_sets, without_name
from pyegress.rules.diff import compare
from pyegress.rules.options import MaxExtra, RuleOptions
from pyegress.rules.read_nft import own_table, read_text
from pyegress.rules.read_nft_json import read_json
from pyegress.rules.shape import Plan, plan
from tests.netns import needs_netfilter, own_netns
from tests.rules.observed import connections, observed
from tests.rules.test_quote import HOSTILE

_TARGETS = [target_of(text) for text in ("192.0.2.53", "fe80::1%eth0", "2001:db8::53")]
SIBLING = Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 80)
SERVERS = Servers(tuple(t for t in _TARGETS if t), tuple(t for t in _TARGETS if t), ("$(touch pwned)",))


def planned(seen: list[Connection], servers: Servers | None = None, **options: object) -> Plan:
    """The rules for it."""
    return plan(observed(seen, by_name=options.get("merge") == "name"), RuleOptions(**options), servers)  # type: ignore[arg-type]


def text_of(made: Plan, there: bool = False) -> str:
    """The file."""
    return "".join(f"{line}\n" for line in nft.lines(made, "pyegress", lambda path: there))


def load(text: str) -> str:
    """Twice, beside somebody else's table; the rules of the kernel then."""
    for file in ("table ip mine { chain c { drop; }; }\n", text, text):
        done = subprocess.run(["nft", "-f", "-"], input=file.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    return subprocess.run(
        ["nft", "-j", "-n", "list", "ruleset"], capture_output=True, check=True
    ).stdout.decode()


@needs_netfilter
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seen=connections,
    scope=st.sampled_from(["any", "user", "unit"]),
    merge=st.sampled_from(["exact", "ports", "prefix", "name"]),
    policy=st.sampled_from(["accept", "log", "reject", "drop"]),
    baseline=st.booleans(),
    verbose=st.integers(0, 2),
)
def test_kernel_holds_what_the_file_says(
    seen: list[Connection], scope: str, merge: str, policy: str, baseline: bool, verbose: int
) -> None:
    """In every mode, loaded twice; nobody else's table is touched."""
    options = {"scope": scope, "merge": merge, "policy": policy, "verbose": verbose, "baseline": baseline}
    made = planned(seen, SERVERS if baseline else None, **options)
    text = text_of(made)
    assert own_table(text) == "pyegress"
    with own_netns():
        listed = load(text)
    assert '"mine"' in listed
    assert compare(read_text(text), read_json(listed)).is_same
    if scope == "any" and not baseline:
        wanted = sum(1 if rule.ifname else max(1, len(rule.ports)) for rule in without_name(made.rules))
        sets = name_sets(made.rules)
        wanted += sum(len(sets[each.name, each.family]) for each in name_rules(made.rules))
        assert sum(entry.verdict == "accept" for entry in read_text(text)[0].entries) == wanted


@needs_netfilter
def test_hostile_names(tmp_path: Path) -> None:
    """As many elements as names, comments within 128 bytes, and a shell does nothing with any line."""
    seen = [
        Connection(
            1,
            "ebpf",
            "tcp",
            4,
            f"192.0.2.{at}",
            443,
            process=Process(pid=1, name=name, cmdline=name, user=name),
        )
        for at, (name, _) in enumerate(HOSTILE)
    ]
    text = text_of(planned(seen, SERVERS, verbose=2, policy="drop"))
    with own_netns():
        listed = json.loads(load(text))["nftables"]
    (elements,) = [each["set"]["elem"] for each in listed if "set" in each]
    assert len(elements) == len(HOSTILE)
    assert all(len(each["elem"]["comment"].encode()) <= 128 for each in elements)
    (tmp_path / "rules").write_text(text)
    before = sorted(tmp_path.iterdir())

    def in_shell(*words: str) -> None:
        subprocess.run(words, cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, check=False)

    in_shell("/bin/sh", "./rules")
    for line in text.splitlines():
        assert line.replace("\t", "").isprintable()
        in_shell("/bin/bash", "-c", line)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\\", "a\\\\"),
        ('a"b', "a\\u0022b"),
        ("$(id)", "\\u0024(id)"),
        ("é" * 100, "é" * 64),
        ("x" * 127 + "é", "x" * 127),
    ],
)
def test_comment(name: str, shown: str) -> None:
    """What a string or a shell would act upon is spelled out; cut between characters."""
    assert nft.comment(name) == f'"{shown}"'


def test_unit_that_is_not_there() -> None:
    """nft would refuse the file, so its path is a comment, beside the drop-in that fills the set."""
    process = Process(pid=1, cgroup="/a.slice/b.service", cgroup_id=9, unit="b.service")
    made = planned([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443, process=process)], scope="unit")
    absent, there = text_of(made), text_of(made, there=True)
    assert '\t\t# elements = { "a.slice/b.service" }\n' in absent
    assert '\t\telements = { "a.slice/b.service" }\n' in there
    assert "NFTSet=cgroup:inet:pyegress:cgroup_b_service" in absent
    assert "socket cgroupv2 level 2 @cgroup_b_service ip daddr . tcp dport @unit_b_service_tcp4" in there


def test_cuts_are_announced() -> None:
    """A dropping policy without a baseline ends the very session that it is loaded from."""
    seen = [Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)]
    assert "# CAUTION: this cuts established connections" in text_of(planned(seen, policy="drop"))
    assert "CAUTION" not in text_of(planned(seen, SERVERS, policy="drop", baseline=True))


@needs_netfilter
@pytest.mark.parametrize("merge", ["exact", "prefix"])
def test_many_load(merge: str) -> None:
    """50,000 destinations, in a set with and without intervals."""
    seen = [
        Connection(1, "ebpf", "tcp", 4, f"10.{at >> 15}.{at >> 7 & 255}.{(at & 127) * 2}", 443)
        for at in range(50_000)
    ]
    made = planned(
        [*seen, Connection(1, "ebpf", "tcp", 4, "192.0.2.0", 80), SIBLING], merge=merge, max_extra=MaxExtra(0)
    )
    text = text_of(made)
    assert ("flags interval" in text) == (merge == "prefix")
    with own_netns():
        subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)
        listed = subprocess.run(
            ["nft", "-j", "-n", "list", "ruleset"], capture_output=True, check=True
        ).stdout
    (loaded,) = read_json(listed.decode())
    assert len(loaded.entries) == len(made.rules) + 1
    assert all(entry.hits == 0 for entry in loaded.entries[:-2])


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
@pytest.mark.parametrize("name", ["a\\x2db.service", "c@1:d e.service", "#%&'()*+,-;<=>?[]^_{}|~", "e" * 230])
def test_unit_names(name: str, tmp_path: Path) -> None:
    """nft finds the cgroup of each path that the model lets through, and lists it so."""
    unit = f"pyegress-nft.slice/{name}"
    process = Process(pid=1, cgroup=f"/{unit}", cgroup_id=9, unit=name)
    made = planned([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443, process=process)], scope="unit")
    (tmp_path / "rules").write_text(text_of(made, there=True))
    script = f"""
        set -e
        [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
        cd /sys/fs/cgroup
        trap 'rmdir "$UNIT" pyegress-nft.slice' EXIT
        mkdir -p "$UNIT"
        nft -f {tmp_path}/rules
        nft -j -n list ruleset
    """
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        env={**os.environ, "UNIT": unit},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    written, live = read_text((tmp_path / "rules").read_text()), read_json(done.stdout.decode())
    assert [entry.cgroup for entry in live[0].entries if entry.verdict == "accept"] == [unit]
    assert compare(written, live).is_same

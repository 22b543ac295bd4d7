# SPDX-License-Identifier: MIT
"""The real programs load what is written, of both backends, and hold what was meant."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from pyegress.kernel import cgroup2_root
from pyegress.record import Connection, Process
from pyegress.rules import iptables
from pyegress.rules.addresses import Family, Target, target_of
from pyegress.rules.baseline import Servers
from pyegress.rules.firewall import Entry
from pyegress.rules.options import Merge, Policy, RuleOptions, Scope
from pyegress.rules.read_iptables import own_chain, read_commands, read_text
from pyegress.rules.shape import Plan, plan
from tests.netns import needs_netfilter, own_netns
from tests.rules.observed import NAMES, UNITS, connections, observed
from tests.rules.test_quote import HOSTILE

BACKENDS = ("nft", "legacy")
FAMILIES: tuple[Family, ...] = (4, 6)
POLICIES: tuple[Policy, ...] = ("accept", "log", "reject", "drop")
MINE = "-A OUTPUT -d {} -j DROP"
SOMEBODY_ELSES = {4: MINE.format("203.0.113.1/32"), 6: MINE.format("2001:db8:9::/48")}


def _targets(*texts: str) -> tuple[Target, ...]:
    return tuple(target for target in map(target_of, texts) if target is not None)


SERVERS = Servers(
    _targets("192.0.2.53", "fe80::1%eth0", "2001:db8::53", "127.0.0.53"),
    _targets("192.0.2.123", "2001:db8::123"),
    ("pool.example", "$(touch pwned)"),
)


def always(path: str) -> bool:
    return True


def planned(seen: list[Connection], servers: Servers | None = None, **options: object) -> Plan:
    return plan(observed(seen), RuleOptions(**options), servers)  # type: ignore[arg-type]


def tool(family: Family, backend: str, end: str = "") -> str:
    return f"{iptables.PROGRAM[family]}-{backend}{end}"


def load(text: str, family: Family, backend: str) -> str:
    """Beside somebody else's rule; what iptables-save lists then."""
    empty = f"*filter\n:OUTPUT ACCEPT [0:0]\n{SOMEBODY_ELSES[family]}\nCOMMIT\n"
    restore = tool(family, backend, "-restore")
    for words, file in (([restore], empty), ([restore, "--noflush"], text)):
        done = subprocess.run(words, input=file.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    return subprocess.run(
        [tool(family, backend, "-save"), "-c"], capture_output=True, check=True
    ).stdout.decode()


def matches(entries: tuple[Entry, ...]) -> list[Entry]:
    """Without where and how they were written."""
    return [structs.replace(entry, line=0, text="", hits=None) for entry in entries]


def rules(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("-A PYEGRESS")]


@contextmanager
def units() -> Iterator[None]:
    """The cgroups of observed.UNITS."""
    root = cgroup2_root()
    assert root is not None
    made = [root / unit for unit in UNITS]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in (*made, made[0].parent):
            path.rmdir()


@pytest.fixture(scope="module")
def namespace() -> Iterator[None]:
    """Of its own, with the units of the tests."""
    with units(), own_netns():
        yield


def text_of(made: Plan, family: Family) -> str:
    return "".join(f"{line}\n" for line in iptables.restore_lines(made, family, always))


@needs_netfilter
@pytest.mark.usefixtures("namespace")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    connections,
    st.sampled_from(["any", "user", "unit"]),
    st.sampled_from(["exact", "ports", "prefix"]),
    st.sampled_from(POLICIES),
    st.sampled_from([None, SERVERS]),
    st.integers(0, 2),
)
def test_what_is_loaded_is_what_was_written(
    seen: list[Connection],
    scope: Scope,
    merge: Merge,
    policy: Policy,
    servers: Servers | None,
    verbose: int,
) -> None:
    """Read back from the kernel it is the same as read from the file; other rules are still there, and decide first."""
    made = planned(seen, servers, scope=scope, merge=merge, policy=policy, verbose=verbose)
    for family in FAMILIES:
        text = text_of(made, family)
        own_chain(text)
        (written,) = read_text(text, family)
        for backend in BACKENDS:
            (loaded,) = read_text(load(text, family, backend), family, live=True)
            assert (loaded.kind, loaded.families, loaded.policy) == ("iptables", (family,), "accept")
            assert loaded.entries[0].verdict == "drop"
            assert matches(loaded.entries[1:]) == matches(written.entries)
            assert all(entry.line == 0 and entry.hits == 0 for entry in loaded.entries)
        assert not any(entry.unknown for entry in written.entries)
        mine = [rule for rule in made.rules if rule.network.family == family]
        allowed = [entry for entry in written.entries if not (entry.comment or "").startswith("baseline: ")]
        if merge != "ports":
            assert sum(entry.verdict == "accept" for entry in allowed) == len(mine) + (policy == "accept")
        for line in text.split("\n"):
            assert line.isprintable()
            assert len(line.encode()) < (4096 if line.startswith("#") else 1024)


@needs_netfilter
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("backend", BACKENDS)
def test_shell_loads_the_same(backend: str, tmp_path: Path) -> None:
    """Commands pasted into a shell, with every hostile name, and nothing else happens."""
    for family in FAMILIES:
        (tmp_path / iptables.PROGRAM[family]).symlink_to(f"/usr/sbin/{tool(family, backend)}")
        load("*filter\nCOMMIT\n", family, backend)
        subprocess.run([tool(family, backend), "-F"], check=True)
    seen = [
        Connection(
            1,
            "ebpf",
            "tcp",
            family,
            f"198.51.100.{at}" if family == 4 else f"2001:db8::{at:x}",
            443,
            process=Process(
                pid=7,
                name=name,
                cmdline=name,
                user=name,
                cgroup=f"/{UNITS[0]}",
                cgroup_id=1,
                unit=UNITS[0][21:],
            ),
        )
        for at, name in enumerate(NAMES, 1)
        for family in FAMILIES
    ]
    made = planned(seen, scope="unit", verbose=2)
    lines = iptables.command_lines(made, FAMILIES, True, always)
    text = "".join(f"{line}\n" for line in lines)
    (tmp_path / "rules").write_text(text)
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["/bin/sh", "./rules"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sorted(tmp_path.iterdir()) == before
    shown = dict(HOSTILE)
    for family in FAMILIES:
        saved = subprocess.run(
            [tool(family, backend, "-save")], capture_output=True, check=True
        ).stdout.decode()
        (loaded,) = read_text(saved, family, live=True)
        (written,) = read_commands(text, family)
        assert matches(loaded.entries) == matches(written.entries)
        assert [entry.cgroup for entry in loaded.entries] == [UNITS[0]] * len(NAMES)
        cut = [shown[name].encode()[:127].decode(errors="ignore") for name in reversed(NAMES)]
        for entry, name in zip(loaded.entries, cut, strict=True):
            assert entry.comment is not None
            assert entry.comment == name or name.startswith(entry.comment)


@needs_netfilter
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("backend", BACKENDS)
def test_loaded_twice(backend: str) -> None:
    """The rules are there once, the jump twice, as the head says; after its commands nothing is left."""
    made = planned([Connection(1, "ebpf", "tcp", 4, "198.51.100.1", 443)], policy="drop")
    text = text_of(made, 4)
    once = load(text, 4, backend)
    restore = [tool(4, backend, "-restore"), "--noflush"]
    subprocess.run(restore, input=text.encode(), check=True)
    save = [tool(4, backend, "-save"), "-c"]
    twice = subprocess.run(save, capture_output=True, check=True).stdout.decode()
    assert once.count("-A PYEGRESS") == twice.count("-A PYEGRESS") == 3
    assert (once.count("-j PYEGRESS"), twice.count("-j PYEGRESS")) == (1, 2)
    head = "\n".join(line for line in text.split("\n") if line.startswith("#"))
    assert "# load it again: iptables -D OUTPUT -j PYEGRESS first" in head
    delete, flush, remove = re.findall(r"iptables (-D OUTPUT -j PYEGRESS|-F PYEGRESS|-X PYEGRESS)", head)[1:]
    for words in (delete, delete, flush, remove):
        subprocess.run([tool(4, backend), *words.split()], check=True)
    left = subprocess.run(save, capture_output=True, check=True).stdout.decode()
    assert "PYEGRESS" not in left and SOMEBODY_ELSES[4] in left


@needs_netfilter
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_cgroup_that_is_gone_fails_the_whole_file(backend: str) -> None:
    """So such rules are comments, and the rest is loaded."""
    gone = Process(
        pid=1, name="a", cgroup="/pyegress-gone.service", cgroup_id=3, unit="pyegress-gone.service"
    )
    seen = [
        Connection(1, "ebpf", "tcp", 4, "198.51.100.1", port, process=who)
        for port, who in ((1, gone), (2, None))
    ]
    made = planned(seen, scope="unit")
    with pytest.raises(AssertionError):
        load(text_of(made, 4), 4, backend)
    lines = list(iptables.restore_lines(made, 4, lambda path: False))
    saved = load("\n".join([*lines, ""]), 4, backend)
    assert "--dport 2" in saved and "--dport 1" not in saved
    assert any(line.startswith("# -A PYEGRESS") and "pyegress-gone.service" in line for line in lines)


def test_ports_beyond_what_one_rule_holds() -> None:
    """A range takes the room of two."""
    ports = [*range(1, 40, 2), *range(100, 130), *range(200, 203), 65535]
    seen = [Connection(1, "ebpf", "udp", 4, "198.51.100.1", port) for port in ports]
    given = rules(text_of(planned(seen, merge="ports"), 4))[:-1]
    found = [re.search(r" (-m \S+ --dports? \S+) ", line) for line in given]
    assert [match and match[1] for match in found] == [
        "-m multiport --dports 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29",
        "-m multiport --dports 31,33,35,37,39,100:129,200:202,65535",
    ]
    single = planned(
        [Connection(1, "ebpf", "tcp", 4, "198.51.100.1", port) for port in (5, 6)], merge="ports"
    )
    assert " -m tcp --dport 5:6 " in rules(text_of(single, 4))[0]


def test_long_names_and_paths_leave_lines_short() -> None:
    """Also where each character is written as two."""
    unit = "\\" * 246 + ".service"
    process = Process(pid=1, name="$" * 300, cgroup=f"/{unit}", cgroup_id=3, unit=unit)
    seen = [Connection(1, "ebpf", "tcp", 6, "2001:db8:1111:2222:3333:4444:5555:6666", port, process=process)
            for port in range(10001, 10060, 2)]  # fmt: skip
    for line in rules(text_of(planned(seen, scope="unit", merge="ports"), 6)):
        assert len(line.encode()) < 1024


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scope", ["any", "user", "unit"])
@pytest.mark.parametrize("servers", [None, SERVERS], ids=["bare", "baseline"])
def test_head_says_what_it_cuts(policy: Policy, scope: Scope, servers: Servers | None) -> None:
    seen = [Connection(1, "ebpf", "tcp", 4, "198.51.100.1", 443)]
    text = text_of(planned(seen, servers, scope=scope, policy=policy), 4)
    bare = servers is None
    assert ("CAUTION: this cuts established connections" in text) == (bare and policy in ("reject", "drop"))
    assert ("no process holds the socket" in text) == (bare and scope != "any" and policy != "accept")
    assert ("load this file again when a unit was restarted" in text) == (scope == "unit")
    assert ("which logs everything twice" in text) == (policy == "log")
    assert ("# The NTP server pool.example is configured by name" in text) == (not bare)


@pytest.mark.parametrize("family", FAMILIES)
def test_baseline(family: Family) -> None:
    """Servers by address, each in its own family, link-local ones with their interface."""
    given = [line.partition(" -j ")[0] for line in iptables.baseline_lines(SERVERS, family) if line[0] != "#"]
    allowed = [line.removeprefix("-A PYEGRESS ") for line in given]
    both = ["-m conntrack --ctstate ESTABLISHED,RELATED", "-o lo"]
    if family == 4:
        assert allowed == [
            *both,
            "-p udp -m udp --sport 68 --dport 67",
            "-d 192.0.2.53 -p udp -m udp --dport 53",
            "-d 192.0.2.53 -p tcp -m tcp --dport 53",
            "-d 127.0.0.53 -p udp -m udp --dport 53",
            "-d 127.0.0.53 -p tcp -m tcp --dport 53",
            "-d 192.0.2.123 -p udp -m udp --dport 123",
        ]
    else:
        icmp = [f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}" for number in (133, 135, 136, 131, 132, 143)]
        assert allowed == [
            *both,
            *icmp,
            "-p udp -m udp --sport 546 --dport 547",
            "-o eth0 -d fe80::1 -p udp -m udp --dport 53",
            "-o eth0 -d fe80::1 -p tcp -m tcp --dport 53",
            "-d 2001:db8::53 -p udp -m udp --dport 53",
            "-d 2001:db8::53 -p tcp -m tcp --dport 53",
            "-d 2001:db8::123 -p udp -m udp --dport 123",
        ]

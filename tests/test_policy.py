# SPDX-License-Identifier: MIT
"""Policies: what is allowed by process, destination or both, and what the rest gets."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pyegress import policy
from pyegress.errors import UsageError
from pyegress.losses import Losses
from pyegress.options import cidr, describe, parse, ports
from pyegress.policy import Decision, Policy, PolicyOptions
from pyegress.record import Process

TCP, UDP = 6, 17
INIT = Process(pid=1, comm="systemd", name="systemd")
SHELL = Process(pid=70, comm="bash", name="bash", cmdline="bash", parent=INIT)
CURL = Process(
    pid=80,
    comm="curl",
    name="curl",
    exe="/usr/bin/curl",
    cmdline="curl https://example.net/",
    uid=0,
    user="root",
    cgroup="/system.slice/ssh.service",
    unit="ssh.service",
    parent=SHELL,
)
CURL2 = Process(
    pid=81, comm="curl2", name="curl2", exe="/usr/bin/curl2", cmdline="curl2", uid=1, user="daemon"
)
OWNER = Process(uid=0, user="root", attribution="process gone")
NOTHING_KNOWN = Process(pid=82)


def address(text: str) -> bytes:
    """As decoded packets have it."""
    found = ip_address(text)
    return b"\0" * 10 + b"\xff\xff" + found.packed if found.version == 4 else found.packed


def made(**options: Any) -> Policy:
    """The policy of some options, by field name; what isn't allowed is dropped."""
    return Policy(PolicyOptions(**{"default": "drop", **options}))


def from_file(folder: Path, content: str, **options: Any) -> Policy:
    """The policy of a file."""
    path = folder / "policy.toml"
    path.write_text(content)
    return Policy(PolicyOptions(policy=str(path), **options))


def allows(
    chosen: Policy,
    process: Process | None,
    host: str = "192.0.2.1",
    port: int | None = 443,
    protocol: int = TCP,
) -> bool:
    """Whether a connection is accepted."""
    return chosen.judge(process, protocol, address(host), port).verdict == "accept"


@pytest.mark.parametrize(
    ("option", "pattern", "allowed", "others"),
    [
        ("comm", "curl", [CURL], [CURL2, SHELL, NOTHING_KNOWN, OWNER, None]),
        ("comm", "curl*", [CURL, CURL2], [SHELL, NOTHING_KNOWN, None]),
        ("exe", "/usr/bin/curl", [CURL], [CURL2, NOTHING_KNOWN, None]),
        ("exe", "*/curl?", [CURL2], [CURL]),
        ("cmdline", "https:", [CURL], [CURL2, NOTHING_KNOWN]),
        ("cmdline", "curl*", [CURL, CURL2], [SHELL]),
        ("parent", "bash", [CURL], [CURL2, SHELL, INIT, None]),
        ("user", "root", [CURL, OWNER], [CURL2, NOTHING_KNOWN, None]),
        ("user", "1", [CURL2], [CURL, OWNER]),
        ("unit", "ssh.service", [CURL], [CURL2, NOTHING_KNOWN]),
    ],
)
def test_option_by_process(
    option: str, pattern: str, allowed: list[Process | None], others: list[Process | None]
) -> None:
    """The rules of patterns are those of the filters; what isn't known allows nothing."""
    chosen = made(**{f"allow_{option}": (pattern,)})
    assert [allows(chosen, process) for process in allowed] == [True] * len(allowed)
    assert [allows(chosen, process) for process in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("networks", "allowed", "others"),
    [
        (["192.0.2.0/24"], ["192.0.2.1", "192.0.2.255"], ["192.0.3.0", "2001:db8::1", "::c000:201"]),
        (["2001:db8::/32"], ["2001:db8::1"], ["192.0.2.1", "2001:db9::1"]),
        (["::/0"], ["2001:db8::1"], ["192.0.2.1"]),
        (["0.0.0.0/0"], ["192.0.2.1"], ["2001:db8::1"]),
        (["::ffff:192.0.2.1"], ["192.0.2.1"], ["192.0.2.2"]),
        (["10.0.0.0/8", "192.0.2.1/32"], ["10.1.2.3", "192.0.2.1"], ["192.0.2.2"]),
    ],
)
def test_option_by_network(networks: list[str], allowed: list[str], others: list[str]) -> None:
    """An address alone decides, for every process and none."""
    chosen = made(allow_cidr=tuple(map(cidr, networks)))
    for process in (CURL, None):
        assert [allows(chosen, process, host) for host in allowed] == [True] * len(allowed)
        assert [allows(chosen, process, host) for host in others] == [False] * len(others)


def test_option_by_port() -> None:
    """TCP and UDP alike; a packet without ports has none that is allowed."""
    chosen = made(allow_port=(ports("53"), ports("8000-8100")))
    for protocol in (TCP, UDP):
        assert [allows(chosen, None, port=port, protocol=protocol) for port in (53, 8000, 8100)] == [True] * 3
        assert [allows(chosen, None, port=port, protocol=protocol) for port in (54, 7999, 8101, None)] == [
            False
        ] * 4


def test_any_option_is_enough() -> None:
    """Options are alternatives; and a rule without a process decides before the others."""
    chosen = made(allow_comm=("curl",), allow_user=("daemon",), allow_port=(ports("53"),))
    assert allows(chosen, CURL) and allows(chosen, CURL2) and not allows(chosen, SHELL)
    assert chosen.judge(SHELL, UDP, address("192.0.2.1"), 53) == Decision("accept", 2)


@pytest.mark.parametrize("default", ["accept", "drop", "reject"])
def test_default(default: str) -> None:
    """What no rule allows gets it."""
    chosen = made(default=default, allow_port=(ports("53"),))
    assert chosen.default == default
    assert chosen.judge(None, TCP, address("192.0.2.1"), 443) == Decision(chosen.default, None)
    assert chosen.judge_unknown() == Decision(chosen.default, None)


def test_nothing_given_is_an_audit() -> None:
    """Everything is accepted, by the default."""
    chosen = Policy(PolicyOptions())
    assert chosen.judge(None, TCP, address("192.0.2.1"), 443) == Decision("accept", None)


GROUPS = """
default = "reject"
[[allow]]
comm = ["curl", "wget"]
user = "root"
port = [443, "8000-8100"]
[[allow]]
cidr = ["10.0.0.0/8", "2001:db8::/32"]
protocol = "udp"
[[allow]]
ancestor = "systemd"
protocol = ["tcp"]
cidr = "198.51.100.0/24"
"""


def test_all_keys_of_a_group_must_hold(tmp_path: Path) -> None:
    """Within a key any value; a group by destination needs no process."""
    chosen = from_file(tmp_path, GROUPS)
    assert chosen.default == "reject"
    as_daemon = Process(pid=83, comm="curl", name="curl", exe="/c", cmdline="curl", uid=1, user="daemon")
    assert allows(chosen, CURL) and allows(chosen, CURL, port=8050)
    assert not allows(chosen, CURL, port=80)
    assert not allows(chosen, as_daemon)
    assert not allows(chosen, OWNER)
    assert allows(chosen, None, "10.1.1.1", 5, UDP) and allows(chosen, None, "2001:db8::1", 5, UDP)
    assert not allows(chosen, None, "10.1.1.1", 5, TCP)
    assert allows(chosen, SHELL, "198.51.100.1", 5) and not allows(chosen, SHELL, "198.51.101.1", 5)
    assert not allows(chosen, CURL2, "198.51.100.1", 5)
    assert chosen.judge(SHELL, UDP, address("10.1.1.1"), 5) == Decision("accept", 1)


def test_groups_and_options_are_alternatives(tmp_path: Path) -> None:
    """A file adds to the options; rules are counted and shown by name."""
    chosen = from_file(tmp_path, GROUPS, allow_comm=("ba\x1bsh", "bash"))
    for process, port in ((SHELL, 1), (SHELL, 2), (CURL, 443), (CURL2, 443)):
        chosen.judge(process, TCP, address("192.0.2.1"), port)
    losses = Losses()
    chosen.put_losses(losses, "nfqueue")
    path = tmp_path / "policy.toml"
    assert losses.snapshot() == {
        ("matched", "by allow-comm:bash"): 2,
        ("matched", f"by policy:{path}:3: [[allow]] 1"): 1,
        ("rejected", "by default"): 1,
    }
    assert chosen.labels[0] == r"allow-comm:ba\u001bsh"
    assert chosen.hits == [0, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("given", "in_file", "outcome"),
    [(None, None, "accept"), ("drop", None, "drop"), (None, "drop", "drop"), ("drop", "drop", "drop")],
)
def test_default_of_option_and_file(
    tmp_path: Path, given: str | None, in_file: str | None, outcome: str
) -> None:
    """The one that is given."""
    content = f'default = "{in_file}"' if in_file else ""
    assert from_file(tmp_path, content, default=given).default == outcome


@pytest.mark.parametrize(("given", "in_file"), [("accept", "drop"), ("reject", "drop"), ("drop", "accept")])
def test_two_defaults_are_an_error(tmp_path: Path, given: str, in_file: str) -> None:
    """Also `accept` over `drop`: one of both is not what was meant."""
    with pytest.raises(UsageError) as raised:
        from_file(tmp_path, f'default = "{in_file}"', default=given)
    path = tmp_path / "policy.toml"
    assert str(raised.value) == f"default:{given}: {path} says {in_file}; remove one of the two"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('comm = ""', "comm: the pattern must not be empty"),
        ('user = "no-such-user"', "user: no-such-user: no such user; give its number"),
        ('cidr = "10.0.0.0/33"', "cidr: 10.0.0.0/33: must be an address or network such as 192.0.2.1,"),
        ('port = "http"', "port: http: must be a port, 1..65535, or a range such as 8000-8100"),
        ("port = 0", "port: 0: must be 1..65535"),
        ("port = 65536", "port: 65536: must be 1..65535"),
        ("port = -1", "port: -1: must be a port,"),
        ('port = "100-99"', "port: 100-99: must not end before it starts"),
        ('cidr = "\\u001b"', r"cidr: \u001b: must be"),
    ],
)
def test_value_that_can_not_be(tmp_path: Path, key: str, message: str) -> None:
    """It is named with file, line and key."""
    with pytest.raises(UsageError) as raised:
        from_file(tmp_path, f"[[allow]]\n{key}\n")
    assert str(raised.value).startswith(f"policy:{tmp_path}/policy.toml:1: [[allow]] 1: {message}")


@pytest.mark.parametrize("kind", ["comm", "exe", "cmdline", "parent", "user", "unit"])
def test_empty_pattern_is_an_error(kind: str) -> None:
    """It would allow every command line."""
    with pytest.raises(UsageError, match=f"^allow-{kind}: the pattern must not be empty$"):
        made(**{f"allow_{kind}": ("x*", "")} if kind != "user" else {"allow_user": ("root", "")})


def test_decisions_are_right_when_the_cache_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short-lived processes that reuse an address in memory don't inherit a permission."""
    monkeypatch.setattr(policy, "CACHED_PROCESSES", 4)
    chosen = made(allow_comm=("odd",))
    for number in range(1000):
        name = "odd" if number % 2 else "even"
        assert allows(chosen, Process(pid=number, comm=name, name=name)) is (name == "odd")
    assert chosen.hits == [500]


def test_options_have_help() -> None:
    """Each says what it lets through, and the command line makes them."""
    texts = {option.key: option for option in describe(PolicyOptions)}
    assert all(
        "through" in option.help
        for key, option in texts.items()
        if key.startswith("allow-") and key != "allow-loopback"
    )
    assert texts["default"].type_text == "accept|drop|reject"
    given = [("allow-comm", "a:b"), ("allow-comm", "c"), ("allow-port", "1-2"), ("default", "reject")]
    assert parse("-I", "nfqueue", PolicyOptions, given) == PolicyOptions(
        allow_comm=("a:b", "c"), allow_port=(ports("1-2"),), default="reject"
    )


@pytest.mark.parametrize(
    ("pattern", "names", "allowed"),
    [
        ("*.example.com", ["a.example.com"], True),
        ("*.example.com", ["a.b.example.com"], False),
        ("**.example.com", ["a.b.example.com"], True),
        ("**.example.com", ["example.com", "a.example.org"], False),
        ("A.example.com.", ["b.example", "a.example.com"], True),
        ("**", [], False),
    ],
)
def test_names(pattern: str, names: list[str], allowed: bool) -> None:
    """Any of those that the address has; without any, none is allowed."""
    chosen = made(allow_name=(pattern,))
    assert chosen.uses_names
    decision = chosen.judge(None, TCP, address("192.0.2.1"), 443, lambda: names)
    assert decision.verdict == ("accept" if allowed else "drop")
    assert chosen.labels == (f"allow-name:{pattern}",)


def test_names_of_a_file(tmp_path: Path) -> None:
    """Beside the process, which must hold too."""
    chosen = from_file(tmp_path, 'default = "drop"\n[[allow]]\ncomm = "curl"\nname = "*.example"\n')
    assert chosen.uses_names
    for process, name, verdict in (
        (CURL, "a.example", "accept"),
        (CURL, "b", "drop"),
        (SHELL, "a.example", "drop"),
    ):
        assert chosen.judge(process, TCP, address("192.0.2.1"), 443, [name].copy).verdict == verdict
    with pytest.raises(UsageError, match=r"\[\[allow\]\] 1: name: \.\.: must be a name such as"):
        from_file(tmp_path, '[[allow]]\nname = ".."\n')
    assert not made(allow_comm=("curl",)).uses_names

# SPDX-License-Identifier: MIT
"""Rules are made from plain names of hosts, and each has a set of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.record import Connection
from pyegress.rules.hostnames import (
    IPSET_PREFIX,
    MOST_BYTES,
    NFT_PREFIX,
    is_host_name,
    is_set_name,
    rule_name,
    set_name,
)


def named(*names: str, sources: tuple[str, ...] = ()) -> Connection:
    """A connection with these names."""
    sources = sources or ("dns",) * len(names)
    return Connection(
        1,
        "ebpf",
        "tcp",
        4,
        "192.0.2.1",
        443,
        dest_names=names,
        dest_name_sources=sources,
        dest_name_ages=(0,),
    )


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("www.example.com", True),
        ("localhost", True),
        ("_443._tcp.example", True),
        ("xn--bcher-kva.example", True),
        ("3com.example", True),
        ("a" * 63 + ".example", True),
        ("a" * 64 + ".example", False),
        (".".join(["a" * 60] * 3), False),
        ("192.0.2.1", False),
        ("1.0x7f", False),
        ("UPPER.example", False),
        ("a b.example", False),
        ("a\\046b.example", False),
        ("-a.example", False),
        ("a..example", False),
        ("a.example\n", False),
        ("*.example", False),
        ("é.example", False),
        ("", False),
    ],
)
def test_what_is_a_name(name: str, good: bool) -> None:
    """Nothing that a resolver, a shell or a firewall would take for something else."""
    assert is_host_name(name) is good


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        (named(), None),
        (named("a.example", "b.example"), "a.example"),
        (named("we ird.example", "b.example"), None),
        (named("p.example", "a.example", sources=("ptr", "hosts")), "a.example"),
        (named("p.example", sources=("ptr",)), None),
    ],
)
def test_name_of_a_rule(connection: Connection, name: str | None) -> None:
    """The first one, as that is what the process asked for; never one that the address' owner chose."""
    assert rule_name(connection) == name


@given(st.from_regex(r"[a-z0-9_.-]{1,100}", fullmatch=True), st.sampled_from([NFT_PREFIX, IPSET_PREFIX]))
def test_set_names(name: str, prefix: str) -> None:
    """As short as ipset wants them, and known again."""
    made = set_name(prefix, name, 6)
    assert made == set_name(prefix, name, 6) != set_name(prefix, f"{name}a", 6)
    assert len(made) <= 31
    assert is_set_name(made)
    assert len(name) <= MOST_BYTES


def test_sets_of_others() -> None:
    """Are told apart."""
    assert not any(map(is_set_name, ("any_tcp4", "name4_x", "unit_a_tcp4", "pyegress4_a_b", "cgroup_a")))

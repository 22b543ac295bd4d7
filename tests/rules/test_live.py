# SPDX-License-Identifier: MIT
"""What this host has loaded, in the test's own network namespace, and programs that don't answer as they should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress.errors import EgressError, InputError, UnsupportedError
from pyegress.rules import live
from pyegress.rules.addresses import Family, target_of
from tests.netns import needs_netfilter, own_netns, run


@pytest.fixture
def namespace() -> Iterator[None]:
    """One without rules."""
    with own_netns():
        yield


NFT = """\
table inet pyegress {
  set allowed { type ipv4_addr . inet_service; counter; elements = { 198.18.0.1 . 53, 198.18.0.2 . 80 } }
  chain output {
    type filter hook output priority filter; policy accept;
    ip protocol udp ip daddr . udp dport @allowed counter accept
    counter drop
  }
}
table inet other { chain c { type filter hook output priority 5; tcp dport 1 accept; }; }
"""


@needs_netfilter
@pytest.mark.usefixtures("namespace")
def test_table_of_nft(tmp_path: Path) -> None:
    assert live.nft_table("pyegress") == []
    (tmp_path / "rules").write_text(NFT)
    run(f"nft -f {tmp_path / 'rules'}")
    (firewall,) = live.nft_table("pyegress")
    accepting = [entry for entry in firewall.entries if entry.verdict == "accept"]
    assert sorted((str(entry.network), entry.dports) for entry in accepting) == [
        ("198.18.0.1", ((53, 53),)),
        ("198.18.0.2", ((80, 80),)),
    ]
    assert live.nft_table("pyegress2") == []


@needs_netfilter
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("family", [4, 6])
def test_chain_of_iptables(family: Family) -> None:
    program, address = ("iptables", "198.18.0.1") if family == 4 else ("ip6tables", "2001:db8::1")
    run(f"{program} -A OUTPUT -p tcp --dport 1 -m comment --comment 'two\n-A PYEGRESS lines' -j ACCEPT")
    assert live.iptables_chain(family) == []
    run(f"{program} -N PYEGRESS && {program} -A PYEGRESS -d {address} -p udp --dport 53 -j ACCEPT")
    run(f"{program} -A OUTPUT -j PYEGRESS && {program} -t mangle -A OUTPUT -p tcp -j DROP")
    (ours,) = live.iptables_chain(family)
    (entry,) = [each for each in ours.entries if each.verdict == "accept"]
    assert entry.network == target_of(address).network and entry.hits == 0  # type: ignore[union-attr]
    (everything,) = live.iptables_chain(family, own=False)
    assert [each.dports for each in everything.entries if each.verdict == "accept"] == [
        ((1, 1),),
        ((53, 53),),
    ]


@needs_netfilter
@pytest.mark.usefixtures("namespace")
def test_a_chain_that_nothing_leads_to_lets_nothing_through() -> None:
    run("iptables -N PYEGRESS && iptables -A PYEGRESS -j ACCEPT")
    assert [each for firewall in live.iptables_chain(4) for each in firewall.entries] == []


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in, found first."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_programs_that_are_missing_have_no_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(live, "_SYSTEM", str(tmp_path))
    assert not live.is_installed("nft")
    assert live.nft_table("pyegress") == [] and live.iptables_chain(4) == []
    assert list(live.backend_notices(4)) == []


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        (
            "echo 'Operation not permitted (you must be root)' >&2; exit 1",
            UnsupportedError,
            "nft: Operation not permitted",
        ),
        ("printf 'a\\033[31m\\nb\\n' >&2; exit 1", UnsupportedError, "nft: a\\u001b[31m"),
        ("exit 3", UnsupportedError, "nft: ended with status 3"),
        ("echo nonsense", InputError, "nft: "),
        ("yes", InputError, "nft: lists more than 1 MiB of rules"),
        ("sleep 60", InputError, "nft: still at work after 1 s; it was ended"),
    ],
)
def test_programs_that_fail_are_one_line(
    script: str, error: type[EgressError], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(live, "PATIENCE_S", 1)
    monkeypatch.setattr(live, "MOST_BYTES", 1 << 20)
    program(tmp_path, "nft", script if script != "sleep 60" else "exec sleep 60", monkeypatch)
    with pytest.raises(error) as raised:
        live.nft_table("pyegress")
    assert str(raised.value).startswith(says) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("tables", "notices"), [("filter\n", 1), ("", 0)])
def test_the_other_backend_is_told(
    tables: str, notices: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path, "iptables-save", "echo 'iptables-save v1.8.9 (nf_tables)'", monkeypatch)
    names = tmp_path / "names"
    names.write_text(tables)
    monkeypatch.setattr(live, "_LEGACY_NAMES", {4: str(names), 6: str(names)})
    said = list(live.backend_notices(4))
    assert len(said) == notices and all("iptables-legacy-save" in line for line in said)


def test_the_nft_backend_is_told_beside_legacy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path, "ip6tables-save", "echo 'ip6tables-save v1.8.9 (legacy)'", monkeypatch)
    program(tmp_path, "nft", "echo table ip6 mangle", monkeypatch)
    (line,) = live.backend_notices(6)
    assert "ip6tables-nft-save" in line

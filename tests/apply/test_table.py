# SPDX-License-Identifier: MIT
"""The table in nftables' own words, with the real nft."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from pyegress.apply import programs, table
from pyegress.apply.programs import Complaint, ProgramError
from pyegress.apply.table import Table
from pyegress.errors import EgressError, InputError, UnsupportedError
from pyegress.kernel import cgroup2_root
from tests.applying import NFT
from tests.island import Island
from tests.netns import needs_netfilter, own_netns, run

RICH = """\
table inet pyegress {
  comment "all that nft has"
  set to { type ipv4_addr . inet_service; flags interval; elements = { 192.0.2.0/28 . 53-54, 192.0.2.99 . 443 } }
  set seen { type ipv6_addr; size 65535; flags timeout, dynamic; timeout 1h; elements = { 2001:db8::1 timeout 2h } }
  map m { type inet_service : verdict; elements = { 22 : accept, 23 : jump other } }
  counter c { packets 3 bytes 99 }
  chain other { }
  chain output {
    type filter hook output priority 5; policy drop;
    ct state established,related accept
    meta skuid { 0, 1000-2000 } counter packets 7 bytes 700 accept comment "root's $(x) `y` \\\\ ; é"
    oifname "eth*" ip daddr . tcp dport @to log prefix "x: " level debug accept
    icmpv6 type { 1, 135-136 } accept
    tcp dport vmap @m
    meta time "2030-01-01 00:00:00"-"2031-01-01 00:00:00" limit rate 5/minute burst 7 packets counter name c
    reject with icmpx type admin-prohibited
  }
}
"""


@pytest.fixture
def namespace() -> Iterator[None]:
    """One with somebody else's table in it."""
    with own_netns():
        run("nft add table inet other")
        yield


pytestmark = [needs_netfilter, pytest.mark.usefixtures("namespace")]


def new() -> Table:
    """Rules that would come in the place of others."""
    return Table("x.nft", NFT.format(port=9).encode())


def loaded(text: str) -> str:
    """Load it; all that there is then."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    return run("nft list ruleset")


def test_all_kinds_of_statements_come_back() -> None:
    """Sets, maps, counts, comments: the listing is the same."""
    before = loaded(RICH)
    part = new()
    part.check()
    part.remember()
    assert _without_expiry(run("nft list ruleset")) == _without_expiry(before)
    part.load()
    assert "192.0.2" not in run("nft list ruleset")
    assert part.take_back() == "table inet pyegress is as it was before"
    assert _without_expiry(run("nft list ruleset")) == _without_expiry(before)


def _without_expiry(text: str) -> list[str]:
    return [word for word in text.split() if not word.endswith(("ms,", "ms", "s"))]


def test_nothing_comes_back() -> None:
    """Where there was no table there is none, even if somebody has removed the new one."""
    before = run("nft list ruleset")
    part = new()
    part.remember()
    part.load()
    run("nft delete table inet pyegress")
    assert part.take_back() == "table inet pyegress removed"
    assert run("nft list ruleset") == before


def test_size() -> None:
    """Rules and elements of sets."""
    part = new()
    part.load()
    assert part.size() == "1 rule"
    loaded("delete table inet pyegress\n" + RICH)
    assert part.size() == "7 rules, 3 set elements"


def test_remove() -> None:
    """Says whether there was something."""
    part = Table("", b"", "pyegress_x")
    assert part.remove() is None
    run("nft add table inet pyegress_x")
    assert part.remove() == "table inet pyegress_x removed"
    assert run("nft list tables") == "table inet other\n"


def test_broken_text_is_refused_with_its_line() -> None:
    """Nothing is loaded."""
    with pytest.raises(InputError, match="x.nft:2: .*; nothing was changed"):
        Table("x.nft", b"table inet pyegress\ntable inet pyegress { chain }\n").check()
    assert run("nft list tables") == "table inet other\n"


def test_kernel_without_nf_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way on is iptables."""

    def fails(*_: str) -> str:
        raise ProgramError("nft", Complaint(None, "cache initialization failed: Protocol not supported"))

    monkeypatch.setattr(programs, "run", fails)
    with pytest.raises(UnsupportedError, match="this kernel has no nf_tables, use files for iptables"):
        new().check()


def test_what_could_not_be_put_back_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked before anything is done."""
    monkeypatch.setattr(table, "listing", lambda _: "table inet pyegress { chain c { nonsense ; } }\n")
    with pytest.raises(EgressError, match="could not be put back .* remove it first"):
        new().remember()


GONE = """\
loaded('''table inet pyegress {{
  set one {{ type cgroupsv2; counter; elements = {{ "{name}", "{name}/b" }}; }}
  set two {{ type cgroupsv2; elements = {{ "{name}/b" }}; }}
  set ports {{ type inet_service; elements = {{ 22, 443 }}; }}
  chain c {{
    socket cgroupv2 level 2 "{name}/b" accept
    socket cgroupv2 level 1 @one accept
    tcp dport 1 accept comment "socket cgroupv2 level 1 1 x"
  }}
}}''')
"""


@pytest.mark.skipif(cgroup2_root() is None, reason="needs cgroup v2")
def test_unit_that_has_ended_is_left_out() -> None:
    """Its cgroup is gone, so it matches nothing any more, and nft could not load it."""
    root = cgroup2_root()
    assert root is not None
    name = f"pyegress-test-{os.getpid()}"
    # nft looks for cgroups in one place only.
    island = Island(
        f"mount --bind {root} /sys/fs/cgroup && echo ready && exec sleep infinity", ("net", "mnt")
    )
    code = f"""
from pathlib import Path
from tests.apply.test_table import loaded, new, run
cgroup = Path("/sys/fs/cgroup/{name}")
(cgroup / "b").mkdir(parents=True)
try:
    {GONE.format(name=name).strip()}
    (cgroup / "b").rmdir()
    part = new()
    part.remember()
    part.load()
    part.take_back()
    print(run("nft list table inet pyegress"))
finally:
    cgroup.rmdir()
"""
    try:
        listed = island.python(code)
    finally:
        island.close()
    assert f'elements = {{ "{name}" counter packets 0 bytes 0 }}' in listed
    assert "elements = { 22, 443 }" in listed and listed.count("elements") == 2
    assert listed.count("accept") == 2 and "tcp dport 1 accept" in listed

# SPDX-License-Identifier: MIT
"""Programs for rules, in a network namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from pyegress.doctor import firewalls
from tests.doctor.checking import NO_RIGHTS, can_run, found, in_mounts, needs_root, nobody_with
from tests.netns import needs_netfilter, own_netns, run

pytestmark = [needs_root, needs_netfilter]


@pytest.fixture
def netns() -> Iterator[None]:
    """The test runs in one."""
    with own_netns():
        yield


@pytest.mark.usefixtures("netns")
def test_iptables() -> None:
    """The default backend is the one that iptables says, and listing makes no tables."""
    version = run("iptables-save --version")
    backend = "nft" if "nf_tables" in version else "legacy"
    for name in ("iptables", "ip6tables"):
        found = firewalls.iptables(name)
        assert found.state == "works" and found.detail.startswith(f"{backend} backend; installed: ")
    assert run("nft list ruleset") == ""


@pytest.mark.usefixtures("netns")
def test_both_backends() -> None:
    """Tables of the other one decide too."""
    done = subprocess.run(["iptables-legacy", "-A", "OUTPUT", "-j", "ACCEPT"], capture_output=True, text=True)
    if done.returncode or "nf_tables" not in run("iptables-save --version"):
        pytest.skip("needs a legacy backend beside iptables-nft")
    found = firewalls.iptables("iptables")
    assert found.state == "limited" and "the legacy backend has tables too" in found.detail
    assert str(found.remedy).startswith("see iptables-legacy-save")
    assert firewalls.iptables("ip6tables").state == "works"


@pytest.mark.usefixtures("netns")
def test_nft() -> None:
    """Our table is there or not."""
    assert firewalls.nft("nft").detail == "table inet pyegress is not loaded"
    run(
        "nft 'add table inet pyegress; add chain inet pyegress output { type filter hook output priority 0; }'"
    )
    assert firewalls.nft("nft").detail == "table inet pyegress is loaded"


def test_not_installed() -> None:
    """The package is named."""
    empty = in_mounts("for d in /usr/sbin /usr/local/sbin; do mount -t tmpfs none $d; done")
    before = ("env", "PATH=/usr/bin:/bin", *empty)
    if os.path.realpath("/sbin") != "/usr/sbin":
        pytest.skip("/sbin is a folder of its own here")
    for check, name in (("iptables", "iptables"), ("iptables", "ip6tables"), ("nft", "nft")):
        one = found(f"firewalls.{check}", name, *before)
        assert one.state == "fails" and "not installed" in one.detail and "apt install" in str(one.remedy)


def test_without_rights() -> None:
    """Listing rules is root's."""
    before = NO_RIGHTS if can_run(*NO_RIGHTS) else nobody_with("dac_read_search")
    for check, name in (("iptables", "iptables"), ("nft", "nft")):
        one = found(f"firewalls.{check}", name, *before)
        assert one.state == "fails" and str(one.remedy).startswith("run as root")

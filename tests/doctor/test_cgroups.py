# SPDX-License-Identifier: MIT
"""Where cgroup v2 is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress import kernel
from tests.doctor.checking import found, in_mounts, needs_root

pytestmark = needs_root
CHECK = ("cgroups.hierarchy", "cgroup-v2")


def needs_cgroup2() -> None:
    if kernel.cgroup2_root() is None:
        pytest.skip("no cgroup v2 is mounted")


def test_here() -> None:
    """The root is the one that hooks go on."""
    needs_cgroup2()
    here = found(*CHECK)
    assert here.state == "works"
    assert here.detail.startswith(f"{kernel.cgroup2_root()}, ")


def test_unified_and_hybrid() -> None:
    """Any v1 hierarchy beside it makes it hybrid."""
    alone = "umount -a -l -t cgroup; umount -a -l -t cgroup2; mount -t tmpfs none /mnt; mkdir /mnt/a /mnt/b"
    unified = f"{alone}; mount -t cgroup2 none /mnt/a"
    assert found(*CHECK, *in_mounts(unified)).detail == "/mnt/a, unified"
    hybrid = f"{unified}; mount -t cgroup -o none,name=doctor none /mnt/b || mount --bind /mnt/a /mnt/b"
    told = found(*CHECK, *in_mounts(hybrid)).detail
    assert told in ("/mnt/a, hybrid: v1 hierarchies beside it", "/mnt/a, unified")


def test_not_mounted() -> None:
    """The way on is the mount."""
    none = found(*CHECK, *in_mounts("umount -a -l -t cgroup2"))
    assert none.state == "fails"
    assert none.remedy == "mount -t cgroup2 none /sys/fs/cgroup"


def test_cgroup_namespace() -> None:
    """Its root is a part of the host's hierarchy, though it looks whole."""
    needs_cgroup2()
    if not Path("/proc/self/ns/cgroup").exists():
        pytest.skip("the kernel has no cgroup namespaces")
    part = found(*CHECK, "unshare", "--cgroup")
    assert part.state == "limited" and "this part only" in part.detail


def test_hostile_name_of_a_mount() -> None:
    """It is shown as text."""
    name = "/mnt/$(printf '\\033')"
    script = (
        f'umount -a -l -t cgroup2; mount -t tmpfs none /mnt; mkdir "{name}"; mount -t cgroup2 none "{name}"'
    )
    assert found(*CHECK, *in_mounts(script)).detail.startswith("/mnt/\\u001b, ")

# SPDX-License-Identifier: MIT
"""What /proc shows of others."""

from __future__ import annotations

import re

from tests.doctor.checking import found, in_mounts, needs_root, nobody_with, run

pytestmark = needs_root
CHECK = ("others.processes", "proc")


def hidden(detail: str) -> int:
    """How many can't be seen."""
    match = re.search(r"of (\d+) of \d+ processes", detail)
    return int(match[1]) if match else 0


def test_root_sees_what_can_be_seen() -> None:
    """No more is said to be hidden than ls and readlink can't see."""
    script = "for p in /proc/[0-9]*; do readlink $p/exe || test ! -e $p/comm || cat $p/maps; done"
    denied = run("sh", "-c", f"({script}) 2>&1 >/dev/null | grep -c denied").stdout
    here = found(*CHECK)
    assert hidden(here.detail) == int(denied)
    assert (here.state == "works") is (int(denied) == 0)


def test_missing_rights_are_those_that_help() -> None:
    """Programs need one capability, folders of open files another; with both it is as for root."""
    none = found(*CHECK, *nobody_with("dac_read_search"))
    assert none.state == "limited" and str(none.remedy).startswith("give CAP_SYS_PTRACE, or")
    both = found(*CHECK, *nobody_with("dac_read_search", "sys_ptrace"))
    assert hidden(both.detail) == hidden(found(*CHECK).detail) < hidden(none.detail)


def test_hidepid() -> None:
    """Others are left out of the list, so that only asking for them by number tells."""
    mount = in_mounts("mount -t proc -o hidepid=2 none /proc")
    one = found(*CHECK, *mount, *nobody_with("dac_read_search"))
    assert one.state == "limited"
    assert re.fullmatch(
        r"doesn't show other users' processes \(mounted with hidepid=(2|invisible)\)", one.detail
    )
    assert "CAP_SYS_PTRACE" in str(one.remedy)


def test_hidepid_does_not_hold_for_who_may_trace() -> None:
    """It is said, and hides nothing."""
    mount = in_mounts("mount -t proc -o hidepid=2 none /proc")
    one = found(*CHECK, *mount)
    assert hidden(one.detail) == hidden(found(*CHECK).detail)
    assert "(mounted with hidepid=" in one.detail


def test_pid_namespace() -> None:
    """The host's other processes aren't there at all."""
    one = found(*CHECK, "unshare", "--pid", "--fork", "--mount-proc")
    assert one.state == "limited" and "--pid=host" in str(one.remedy)

# SPDX-License-Identifier: MIT
"""Who has a group or queue, from what the kernel lists; the rest is tested in test_log.py and test_queue.py."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pyegress.errors import InputError
from pyegress.netfilter import holder
from pyegress.netfilter.holder import LOG, QUEUE, failure, listed


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A /proc/net with a group and two queues of processes that can't be found."""
    (tmp_path / "netfilter").mkdir()
    (tmp_path / "netfilter/nfnetlink_log").write_text("  100 4294963 0 2   512      0  1\n")
    (tmp_path / "netfilter/nfnetlink_queue").write_text(
        "    0  31847     0 2   512     0     0       12  1\n   10 4294963     3 2   512     4     5       12  1\n"
    )
    monkeypatch.setattr(holder, "NET", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("net")
def test_listed() -> None:
    """By whole number."""
    assert listed(QUEUE, 10) == [10, 4294963, 3, 2, 512, 4, 5, 12, 1]
    assert listed(QUEUE, 1) is None
    assert listed(LOG, 100) == [100, 4294963, 0, 2, 512, 0, 1]


@pytest.mark.usefixtures("net")
@pytest.mark.parametrize("code", [errno.EPERM, errno.EBUSY])
def test_holder_that_can_not_be_found(code: int) -> None:
    """In another pid namespace, for example: its netlink port is all that is known, and no pid is guessed."""
    error = failure(LOG, 100, code)
    assert isinstance(error, InputError)
    assert str(error) == (
        "nflog: group 100 is in use by netlink port 4294963; take another number, there and in the rules"
    )


def test_file_that_we_may_not_read(net: Path) -> None:
    """Then it is the capability, as far as we can know."""
    (net / "netfilter/nfnetlink_log").unlink()
    (net / "netfilter/nfnetlink_log").mkdir()
    assert "EPERM: needs CAP_NET_ADMIN" in str(failure(LOG, 100, errno.EPERM))


@pytest.mark.usefixtures("net")
def test_other_failures() -> None:
    """They keep the kernel's word."""
    assert str(failure(LOG, 5, errno.ENOMEM)) == "nflog: group 5: ENOMEM: Cannot allocate memory"

# SPDX-License-Identifier: MIT
"""`pyegress apply` on kernels of distributions: rules are kept, taken back, and nothing of the user's is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.applying import (
    apply,
    await_end,
    backend_path,
    load_users_rules,
    may_send,
    nft_file,
    restore_files,
    state,
    waiting,
)
from tests.netns import own_netns

pytestmark = [
    pytest.mark.guest("6.1", "6.12"),
    pytest.mark.parametrize("firewall", ["nft", "iptables-nft", "iptables-legacy"]),
]


@pytest.fixture
def files(firewall: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """For the firewall, in a namespace with rules of its user; iptables is of the backend."""
    if firewall != "nft":
        monkeypatch.setenv("PATH", backend_path(tmp_path, firewall.removeprefix("iptables-")))
    with own_netns():
        load_users_rules()
        yield [nft_file(tmp_path)] if firewall == "nft" else restore_files(tmp_path)


def test_kept_and_removed(files: list[Path]) -> None:
    """With a yes they stay; removing is one command."""
    before = state()
    with waiting(*files) as trial:
        assert not may_send()
        trial.answer("yes\n")
        assert trial.end() == (0, "pyegress: kept\n")
    assert not may_send()
    assert apply("--remove").returncode == 0
    assert state() == before
    assert may_send()


def test_time_takes_back(files: list[Path]) -> None:
    before = state()
    done = apply(*files, "--confirm", 1)
    assert done.returncode == 1
    assert "pyegress: loaded " in done.stderr
    assert "pyegress: taken back: no answer within 1 s; " in done.stderr.splitlines()[-1]
    assert state() == before
    assert may_send()


def test_killed_takes_back(files: list[Path]) -> None:
    """kill -9: the watchdog does it."""
    before = state()
    with waiting(*files) as trial:
        assert not may_send()
        watchdog = trial.watchdog
        trial.process.kill()
        await_end(watchdog)
        trial.end()
    assert state() == before
    assert may_send()

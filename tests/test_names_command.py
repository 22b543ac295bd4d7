# SPDX-License-Identifier: MIT
"""`pyegress names refresh`: what it says, what it leaves alone, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.apply.test_namesets import held, load_nft
from tests.netns import needs_netfilter, own_netns
from tests.rules.test_bynames import CDN

PATIENCE_S = 120


def refresh(*words: str, start: tuple[str, ...] = ()) -> tuple[int, str]:
    """Its status, and what it says."""
    command = [*start, sys.executable, "-m", "pyegress", "names", "refresh", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == ""
    return done.returncode, done.stderr


@needs_netfilter
def test_a_name_that_fails() -> None:
    """Is told in a line; its set stays as it is."""
    with own_netns():
        load_nft()
        status, said = refresh()
        assert list(held()) == [CDN]
    assert status == 1
    first, last = said.splitlines()
    assert first.startswith("pyegress: a.example: ")
    assert first.endswith("; the addresses that it had stay allowed for their time")
    assert last == "pyegress: 0 of 1 names refreshed: 0 addresses added for their time"


@needs_netfilter
@pytest.mark.parametrize(
    ("words", "start", "status", "told"),
    [
        ((), (), 1, "neither table inet pyegress nor the chain PYEGRESS has rules by name"),
        (("--table", "mine"), (), 2, "tables of pyegress have names that begin with pyegress"),
        ((), ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"), 1, "missing CAP_NET_ADMIN"),
    ],
)
def test_errors(words: tuple[str, ...], start: tuple[str, ...], status: int, told: str) -> None:
    """One line, with the way on."""
    with own_netns():
        found, said = refresh(*words, start=start)
    assert found == status
    assert told in said
    assert said.count("\n") == 1

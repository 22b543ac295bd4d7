# SPDX-License-Identifier: MIT
"""`pyegress names`: what it says, what it leaves alone, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.apply.test_namesets import held, load_nft
from tests.netns import needs_netfilter, own_netns
from tests.rules.test_bynames import CDN

PATIENCE_S = 120
NONE = "neither table inet pyegress nor the chain PYEGRESS has rules by name"
WITHOUT_ADMIN, WITHOUT_RAW = (
    ("setpriv", f"--bounding-set=-{name}", f"--inh-caps=-{name}") for name in ("net_admin", "net_raw")
)


def names(*words: str, start: tuple[str, ...] = ()) -> tuple[int, str]:
    """Its status, and what it says."""
    command = [*start, sys.executable, "-m", "pyegress", "names", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == ""
    return done.returncode, done.stderr


@needs_netfilter
def test_a_name_that_fails() -> None:
    """Is told in a line; its set stays as it is."""
    with own_netns():
        load_nft()
        status, said = names("refresh")
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
        *((words, (), 1, f"names {words[0]}: {NONE}") for words in (("refresh",), ("follow",))),
        (("refresh", "--table", "mine"), (), 2, "tables of pyegress have names that begin with pyegress"),
        (("follow", "--server", "ns.example"), (), 2, "--server ns.example: must be an IP address"),
        (("refresh", "--server", "192.0.2.53"), (), 2, "--server: only with follow"),
        (("refresh",), WITHOUT_ADMIN, 1, "names refresh: missing CAP_NET_ADMIN"),
        (("follow",), WITHOUT_RAW, 1, "names follow: missing CAP_NET_RAW"),
    ],
)
def test_errors(words: tuple[str, ...], start: tuple[str, ...], status: int, told: str) -> None:
    """One line, with the way on."""
    with own_netns():
        found, said = names(*words, start=start)
    assert found == status
    assert told in said
    assert said.count("\n") == 1

# SPDX-License-Identifier: MIT
"""The line for each connection on stderr."""

from __future__ import annotations

import pytest

from pyegress.announcer import Announcer
from pyegress.record import Connection


def test_only_loud_inputs_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    """By the hook of the record; stdout has nothing."""
    announcer = Announcer(frozenset({"ebpf"}))
    announcer.write([Connection(1, hook, "tcp", 4, "192.0.2.1", 443) for hook in ("ebpf", "nflog")])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "new TCP connection to 192.0.2.1:443(https) by an unknown process\n")

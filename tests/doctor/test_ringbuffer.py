# SPDX-License-Identifier: MIT
"""A ring buffer, made and let go."""

from __future__ import annotations

import platform

import pytest

from pyegress.doctor import ringbuffer
from tests.doctor.checking import descriptors, found, needs_root, nobody_with

NAME = "ring-buffer"


@needs_root
def test_it_is_let_go() -> None:
    """It can be had here, and no descriptor of it stays."""
    before = descriptors()
    assert ringbuffer.ring_buffer(NAME).state == "works"
    assert descriptors() == before


@needs_root
def test_without_rights() -> None:
    """The kernel refuses, and the capability is named."""
    refused = found("ringbuffer.ring_buffer", NAME, *nobody_with("dac_read_search"))
    assert (refused.state, refused.detail) == ("fails", "can't be made: EPERM")
    assert str(refused.remedy).startswith("missing CAP_BPF")


def test_unknown_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number is tried that may be another call's."""
    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    assert ringbuffer.ring_buffer(NAME).state == "unknown"

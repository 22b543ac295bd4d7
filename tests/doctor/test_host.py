# SPDX-License-Identifier: MIT
"""What the kernel says of itself."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from pyegress import kernel
from pyegress.doctor import host
from pyegress.doctor.finding import Finding
from tests.doctor.checking import found, in_mounts, needs_root


def test_release_of_this_host() -> None:
    """It is what uname says."""
    assert host.release("kernel") == Finding("kernel", "works", os.uname().release)


@pytest.mark.parametrize(
    ("release", "state"),
    [
        ("4.19.0-21-amd64", "fails"),
        ("5.7.19", "fails"),
        ("5.8.0", "works"),
        ("6.12.3", "works"),
        ("odd", "fails"),
    ],
)
def test_release(release: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ring buffers came with 5.8."""
    monkeypatch.setattr(platform, "release", lambda: release)
    found = host.release("kernel")
    assert found.state == state and release in found.detail
    assert (found.remedy is None) is (state == "works")


@pytest.mark.parametrize(
    ("machine", "state"), [("x86_64", "works"), ("aarch64", "works"), ("s390x", "limited"), ("m68k", "fails")]
)
def test_architecture(machine: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tested, known to the build, or neither."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert host.architecture("architecture").state == state


def test_architectures_are_those_of_the_build() -> None:
    """What is said to be built is what build.py has a name for."""
    namespace: dict[str, Any] = {}
    text = (Path(__file__).parents[2] / "build.py").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("BPF_ARCH = ")]
    exec(line, namespace)
    assert {*host.TESTED, *host.BUILT} == set(namespace["BPF_ARCH"])


@needs_root
def test_btf() -> None:
    """It is there where its file is, and not where another mount hides that."""
    assert found("host.btf", "btf").state == ("works" if kernel.BTF.exists() else "fails")
    without = found("host.btf", "btf", *in_mounts("mount -t tmpfs none /sys"))
    assert without.state == "fails" and "CONFIG_DEBUG_INFO_BTF" in str(without.remedy)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("[none] integrity confidentiality\n", "works"),
        ("none [integrity] confidentiality\n", "works"),
        ("none integrity [confidentiality]\n", "fails"),
        (None, "unknown"),
    ],
)
def test_lockdown(text: str | None, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only confidentiality keeps BPF from reading; where the file is missing nothing is claimed."""
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    monkeypatch.setattr(kernel, "LOCKDOWN", tmp_path / "lockdown")
    found = host.lockdown("lockdown")
    assert found.state == state
    assert (found.remedy is None) is (state == "works")


def test_clock_of_this_host() -> None:
    """The kernel's own word for it: STA_UNSYNC, in `status` behind five longs."""
    timex = ctypes.create_string_buffer(512)
    ctypes.CDLL(None).adjtimex(timex)
    status = int.from_bytes(timex.raw[40:44], "little")
    assert host.clock("clock").state == ("limited" if status & 0x40 else "works")


@pytest.mark.parametrize(("answer", "state"), [(0, "works"), (1, "works"), (5, "limited"), (-1, "unknown")])
def test_clock(answer: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TIME_ERROR is what counts: a coming leap second is none."""

    class Library:
        def __init__(self, *_: object, **__: object) -> None: ...

        def adjtimex(self, _: object) -> int:
            return answer

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert host.clock("clock").state == state

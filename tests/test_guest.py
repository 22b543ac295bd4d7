# SPDX-License-Identifier: MIT
"""The guest harness runs a test on the kernel it names."""

import platform
from pathlib import Path

import pytest


@pytest.mark.guest("6.1", "6.12")
def test_guest_runs_the_named_kernel(guest_kernel: str) -> None:
    """A guest test sees its own kernel, with the kprobes and the BTF that the host may lack."""
    assert platform.release().startswith(f"{guest_kernel}.")
    assert Path("/sys/kernel/tracing/kprobe_events").exists()
    assert Path("/sys/kernel/btf/vmlinux").exists()


@pytest.mark.guest("6.12", append="ipv6.disable=1")
def test_guest_takes_kernel_options() -> None:
    """A lane's `append` reaches the kernel's command line."""
    assert not Path("/proc/net/if_inet6").exists()

# SPDX-License-Identifier: MIT
"""A network namespace of the test's own, from which nothing gets out."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

needs_netfilter = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("iptables") or not shutil.which("nft"),
    reason="needs root, iptables and nft",
)


@contextmanager
def own_netns() -> Iterator[None]:
    """Run the body in one, with lo up and all of 198.18.0.0/15 and 2001:db8::/48 on it."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            run("ip link set lo up")
            run("ip route add local 198.18.0.0/15 dev lo")
            run("ip -6 route add local 2001:db8::/48 dev lo")
            yield
        finally:
            _check(_libc.setns(here, _CLONE_NEWNET))
    finally:
        os.close(here)


def run(command: str) -> str:
    """A command's output; it must succeed."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def add_link() -> None:
    """A link beside lo that everything but that is routed to, and that nobody answers on."""
    run("ip link add out0 type veth peer name out1 && ip link set out1 up && ip link set out0 up")
    run("ip address add 192.0.2.1/24 dev out0 && ip -6 address add fd00::1/64 dev out0 nodad")
    run("ip route add default dev out0 && ip -6 route add default dev out0")


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

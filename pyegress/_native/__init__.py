# SPDX-License-Identifier: MIT
"""The native module: `ffi`, `lib` and the path of the BPF object."""

from pathlib import Path

from pyegress._native._egress import ffi, lib

BPF_OBJECT = Path(__file__).with_name("egress.bpf.o")

__all__ = ["BPF_OBJECT", "ffi", "lib"]

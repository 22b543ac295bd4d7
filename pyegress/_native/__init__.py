# SPDX-License-Identifier: MIT
"""The native module: `ffi`, `lib` and the paths of the BPF objects."""

from pathlib import Path

from pyegress._native._egress import ffi, lib

BPF_OBJECT = Path(__file__).with_name("egress.bpf.o")
CAST_OBJECT = Path(__file__).with_name("egress_cast.bpf.o")
"""The same programs for kernels that have the function `bpf_rdonly_cast`: they take half as long."""
NAMES_OBJECT = Path(__file__).with_name("names.bpf.o")
"""Those that see DNS pass."""

__all__ = ["BPF_OBJECT", "CAST_OBJECT", "NAMES_OBJECT", "ffi", "lib"]

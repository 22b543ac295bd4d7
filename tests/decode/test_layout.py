# SPDX-License-Identifier: MIT
"""Layouts: clang's, the C compiler's and the decoder's are the same."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from functools import cache
from typing import Any

import pytest

from pyegress._native import BPF_OBJECT, ffi
from pyegress.decode.event import EVENT_FIELDS, PROCESS_FIELDS
from pyegress.decode.layout import layout_of

SHARED = (
    "egress_event",
    "egress_process",
    "egress_flow",
    "egress_flow_key",
    "egress_config",
    "egress_verdict",
    "egress_cidr4_key",
    "egress_cidr6_key",
)
DECODED = {"egress_event": EVENT_FIELDS, "egress_process": PROCESS_FIELDS}


def members(name: str) -> list[tuple[str, int, int]]:
    """Name, offset and size of each member, as the C compiler has it."""
    ctype = ffi.typeof(f"struct {name}")
    return [(member, field.offset, ffi.sizeof(field.type)) for member, field in ctype.fields]


@cache
def btf() -> dict[str, dict[str, Any]]:
    """Structs of the compiled BPF object by name."""
    tool = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        pytest.skip("bpftool is not installed")
    dumped = subprocess.run([tool, "-j", "btf", "dump", "file", BPF_OBJECT], capture_output=True, check=True)
    return {t["name"]: t for t in json.loads(dumped.stdout)["types"] if t["kind"] == "STRUCT"}


@pytest.mark.parametrize(
    ("name", "member"), [(name, member) for name in DECODED for member in DECODED[name]], ids="-".join
)
def test_format_reads_each_member_where_c_has_it(name: str, member: str) -> None:
    """A struct whose one member is all ones gives that member alone."""
    layout = layout_of(ffi, name, DECODED[name])
    ((offset, size),) = [(offset, size) for at, offset, size in members(name) if at == member]
    raw = bytearray(ffi.sizeof(f"struct {name}"))
    raw[offset : offset + size] = b"\xff" * size
    values = dict(zip(layout.fields, layout.unpack.unpack(raw), strict=True))
    ones = values.pop(member)
    if not isinstance(ones, bytes):
        ones = ones.to_bytes(size, "little", signed=ones < 0)
    assert ones == b"\xff" * size
    assert not any(value.strip(b"\0") if isinstance(value, bytes) else value for value in values.values())


@pytest.mark.parametrize("name", DECODED)
def test_format_is_as_long_as_the_struct(name: str) -> None:
    """Records follow each other without a gap or an overlap."""
    assert layout_of(ffi, name, DECODED[name]).unpack.size == ffi.sizeof(f"struct {name}")


@pytest.mark.parametrize(
    "expected",
    [
        PROCESS_FIELDS[:-1],
        (*PROCESS_FIELDS, "more"),
        (PROCESS_FIELDS[1], PROCESS_FIELDS[0], *PROCESS_FIELDS[2:]),
        (),
    ],
    ids=["forgotten", "unknown", "swapped", "none"],
)
def test_a_decoder_that_expects_other_members_is_refused(expected: tuple[str, ...]) -> None:
    """A member that is added to the header and not to the decoder, or in another order, can't pass."""
    with pytest.raises(TypeError, match=r"^struct egress_process has start_ns, .*; the decoder expects"):
        layout_of(ffi, "egress_process", expected)


def test_gaps_are_skipped() -> None:
    """Padding that the compiler puts between and after members is no member."""
    from cffi import FFI

    other = FFI()
    other.cdef("struct gaps { unsigned char a; unsigned long long b; signed int c; unsigned char d[3]; };")
    layout = layout_of(other, "gaps", ("a", "b", "c", "d"))
    raw = struct.pack("<B7xQi3s1x", 1, 2, -3, b"xyz")
    assert layout.unpack.unpack(raw) == (1, 2, -3, b"xyz")


@pytest.mark.parametrize("name", SHARED)
def test_clang_lays_structs_out_as_the_c_compiler(name: str) -> None:
    """The object that stands beside the module has the same members at the same offsets, and the same size."""
    assert name in btf(), f"struct {name} is not used in {BPF_OBJECT}"
    found = btf()[name]
    assert found["size"] == ffi.sizeof(f"struct {name}")
    compiled = [(member["name"], member["bits_offset"]) for member in found["members"]]
    assert compiled == [(member, 8 * offset) for member, offset, _ in members(name)]


@pytest.mark.parametrize("name", SHARED)
def test_nothing_is_padded_by_the_compiler(name: str) -> None:
    """Padding is named, so that no byte of the kernel's stack that nobody set gets out."""
    assert sum(size for _, _, size in members(name)) == ffi.sizeof(f"struct {name}")

# SPDX-License-Identifier: MIT
"""Layouts: clang's, the C compiler's and the decoder's are the same."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pyegress._native import BPF_OBJECT, ffi
from pyegress.decode.details import DETAILS_FIELDS, IDENTITY_FIELDS, PROCESS_FIELDS
from pyegress.decode.event import EVENT_FIELDS
from pyegress.decode.layout import layout_of
from pyegress.decode.packet import FLOW_FIELDS, PACKET_FIELDS
from pyegress.names.cgrouptap import DNS_FIELDS

HEADERS = Path(__file__).resolve().parents[2] / "bpf"
SHARED = (
    "egress_event",
    "egress_identity",
    "egress_process",
    "egress_known",
    "egress_flow",
    "egress_flow_key",
    "egress_config",
    "egress_verdict",
    "egress_cidr4_key",
    "egress_cidr6_key",
)
DETAILS = "egress_details"
"""Written through pointers alone, so that clang leaves it out of the object's BTF."""
DECODED = {
    "egress_event": EVENT_FIELDS,
    "egress_process": PROCESS_FIELDS,
    "egress_identity": IDENTITY_FIELDS,
    DETAILS: DETAILS_FIELDS,
    "egress_packet": PACKET_FIELDS,
    "egress_packet_flow": FLOW_FIELDS,
    "egress_dns": DNS_FIELDS,
}


def members(name: str) -> list[tuple[str, int, int]]:
    """Name, offset and size of each member, as the C compiler has it; one of open length has the size 0."""
    return [
        (member, field.offset, 0 if is_open(field) else ffi.sizeof(field.type))
        for member, field in ffi.typeof(f"struct {name}").fields
    ]


def is_open(field: Any) -> bool:
    """Whether a member is an array without a length."""
    return bool(field.type.kind == "array" and field.type.length is None)


@cache
def btf() -> dict[str, dict[str, Any]]:
    """Structs of the compiled BPF object by name."""
    tool = shutil.which("bpftool", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        pytest.skip("bpftool is not installed")
    return structs_in(tool, BPF_OBJECT)


def structs_in(tool: str, path: str | Path) -> dict[str, dict[str, Any]]:
    """Structs of an object by name, as bpftool shows them."""
    dumped = subprocess.run([tool, "-j", "btf", "dump", "file", str(path)], capture_output=True, check=True)
    return {t["name"]: t for t in json.loads(dumped.stdout)["types"] if t["kind"] == "STRUCT"}


def laid_out(struct_of_btf: dict[str, Any]) -> list[tuple[str, int]]:
    """Name and offset of each member, in bits."""
    return [(member["name"], member["bits_offset"]) for member in struct_of_btf["members"]]


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
    with pytest.raises(TypeError, match=r"^struct egress_process has identity, .*; the decoder expects"):
        layout_of(ffi, "egress_process", expected)


def test_gaps_are_skipped() -> None:
    """Padding that the compiler puts between and after members is no member."""
    from cffi import FFI

    other = FFI()
    other.cdef("struct gaps { unsigned char a; unsigned long long b; signed int c; unsigned char d[3]; };")
    layout = layout_of(other, "gaps", ("a", "b", "c", "d"))
    raw = struct.pack("<B7xQi3s1x", 1, 2, -3, b"xyz")
    assert layout.unpack.unpack(raw) == (1, 2, -3, b"xyz")


def test_last_member_of_open_length_is_left_out() -> None:
    """What follows a struct begins where the struct ends, and the format says nothing of it."""
    from cffi import FFI

    other = FFI()
    other.cdef("struct open { unsigned int a; unsigned char b[4]; unsigned char data[]; };")
    layout = layout_of(other, "open", ("a", "b"))
    assert layout.unpack.unpack_from(struct.pack("<I4s", 1, b"wxyz") + b"data") == (1, b"wxyz")
    assert layout.unpack.size == 8


def test_member_of_open_length_inside_the_padding_is_refused() -> None:
    """The decoder takes what follows from the struct's end on, and would miss its first bytes."""
    from cffi import FFI

    other = FFI()
    other.cdef("struct early { unsigned long long a; unsigned char b; unsigned char data[]; };")
    with pytest.raises(TypeError, match="data begins inside the struct's padding"):
        layout_of(other, "early", ("a", "b"))


@pytest.mark.parametrize("name", SHARED)
def test_clang_lays_structs_out_as_the_c_compiler(name: str) -> None:
    """The object that stands beside the module has the same members at the same offsets, and the same size."""
    assert name in btf(), f"struct {name} is not used in {BPF_OBJECT}"
    found = btf()[name]
    assert found["size"] == ffi.sizeof(f"struct {name}")
    assert laid_out(found) == [(member, 8 * offset) for member, offset, _ in members(name)]


def test_clang_lays_details_out_as_the_c_compiler(tmp_path: Path) -> None:
    """The same of the one struct that the object does not describe: of the header, as clang takes it for BPF."""
    clang, bpftool = (
        shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") for tool in ("clang", "bpftool")
    )
    if clang is None or bpftool is None:
        pytest.skip("clang or bpftool is not installed")
    source = tmp_path / "details.c"
    made = source.with_suffix(".o")
    source.write_text('#include "egress.h"\nstruct egress_details details;\n')
    folders = (
        "-I",
        str(HEADERS),
        "-I",
        "/usr/include/x86_64-linux-gnu",
        "-I",
        "/usr/include/aarch64-linux-gnu",
    )
    command = [clang, "-target", "bpf", "-g", "-O2", "-Wall", *folders, "-c", str(source), "-o", str(made)]
    subprocess.run(command, check=True)
    found = structs_in(bpftool, made)
    for name in (DETAILS, "egress_process", "egress_identity"):
        assert found[name]["size"] == ffi.sizeof(f"struct {name}")
        assert laid_out(found[name]) == [(member, 8 * offset) for member, offset, _ in members(name)]


@pytest.mark.parametrize("name", [*SHARED, *DECODED])
def test_nothing_is_padded_by_the_compiler(name: str) -> None:
    """Padding is named, so that no byte of the kernel's stack that nobody set gets out."""
    assert sum(size for _, _, size in members(name)) == ffi.sizeof(f"struct {name}")

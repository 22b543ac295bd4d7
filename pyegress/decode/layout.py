# SPDX-License-Identifier: MIT
"""`struct` formats of the records in egress.h, derived from what the C compiler laid out."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

_CODES = {
    "unsigned char": "B",
    "unsigned short": "H",
    "unsigned int": "I",
    "int": "i",
    "unsigned long long": "Q",
    "long long": "q",
}


class Layout(NamedTuple):
    """How to take one C struct apart."""

    unpack: struct.Struct
    fields: tuple[str, ...]


def layout_of(ffi: Any, name: str, expected: tuple[str, ...]) -> Layout:
    """The layout of `struct NAME`; members that are arrays or structs come out as bytes, a last one of
    open length does not.

    Raises TypeError when the members aren't `expected`, in that order: then header and decoder differ.
    """
    ctype = ffi.typeof(f"struct {name}")
    text = "="
    offset = 0
    fields = []
    for field_name, field in ctype.fields:
        if field.type.kind == "array" and field.type.length is None:
            if field.offset != ffi.sizeof(ctype):
                raise TypeError(f"struct {name}: {field_name} begins inside the struct's padding")
            break
        text += "x" * (field.offset - offset)
        size = ffi.sizeof(field.type)
        text += f"{size}s" if field.type.kind in ("array", "struct") else _CODES[field.type.cname]
        offset = field.offset + size
        fields.append(field_name)
    text += "x" * (ffi.sizeof(ctype) - offset)
    if tuple(fields) != expected:
        raise TypeError(f"struct {name} has {', '.join(fields)}; the decoder expects {', '.join(expected)}")
    return Layout(struct.Struct(text), expected)

# SPDX-License-Identifier: MIT
"""What is said of the record's fields where they are declared, for people who only see what was written of it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise


def field_texts(struct: type) -> dict[str, str]:
    """The text below each field of a class in its source, on one line; fields without one are left out."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for field, below in pairwise(declared.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found

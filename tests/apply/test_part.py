# SPDX-License-Identifier: MIT
"""What both kinds of parts say when a file is refused."""

from __future__ import annotations

import pytest

from pyegress.apply.part import Part
from pyegress.apply.programs import Complaint, ProgramError
from pyegress.errors import InputError
from tests.applying import FakePart


@pytest.mark.parametrize(
    ("line", "added", "place"), [(None, 2, ""), (9, 0, ":9"), (9, 2, ":7"), (1, 2, ":1")]
)
def test_refusal_names_the_line_of_the_file(line: int | None, added: int, place: str) -> None:
    """Lines that were added for the program don't count; the name is fit for a terminal."""
    part: Part = FakePart("a\x1b")
    with pytest.raises(InputError) as caught:
        part._refuse(ProgramError("nft", Complaint(line, "syntax error")), added)
    assert str(caught.value) == f"a\\u001b{place}: syntax error; nothing was changed"

# SPDX-License-Identifier: MIT
"""Texts below fields are found, and every field of the record has one."""

from __future__ import annotations

import pytest

from pyegress.logs.wording import field_texts
from pyegress.record import Connection, Process


class Sample:
    """Not this."""

    said: int
    """One sentence
    on two lines."""
    unsaid: int
    also: str = "not this"
    """Another."""

    def method(self) -> None:
        """Not this."""


def test_texts_of_fields() -> None:
    assert field_texts(Sample) == {"said": "One sentence on two lines.", "also": "Another."}


@pytest.mark.parametrize("struct", [Connection, Process])
def test_every_field_of_the_record_has_one(struct: type) -> None:
    assert field_texts(struct).keys() == set(struct.__struct_fields__)  # type: ignore[attr-defined]

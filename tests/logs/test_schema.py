# SPDX-License-Identifier: MIT
"""The store's columns follow the record, also in files that an older pyegress made."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyegress.logs import schema
from pyegress.record import Connection, Process


def test_every_field_of_the_record_has_a_column_or_is_left_out_by_name() -> None:
    """One that is new in the record is stored without anybody thinking of it."""
    assert {column.name for column in schema.PROCESS} == set(Process.__struct_fields__) - {"parent"}
    assert {column.name for column in schema.CONNECTION} == set(Connection.__struct_fields__) - schema.VARYING


def test_a_column_that_a_file_lacks_is_added() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        schema.prepare(database)
        whole = schema.columns_of(database, "connection")
        database.execute("DROP VIEW egress")
        database.execute("ALTER TABLE connection DROP COLUMN verdict")
        schema.prepare(database)
        schema.prepare(database)
        assert sorted(schema.columns_of(database, "connection")) == sorted(whole)


@given(st.one_of(st.none(), st.text(), st.binary().map(lambda data: data.decode(errors="surrogateescape"))))
def test_text_comes_back(text: str | None) -> None:
    (column,) = [column for column in schema.PROCESS if column.name == "cmdline"]
    stored = column.put(text)
    assert stored is None or (isinstance(stored, str) and stored.isprintable())
    assert column.get(stored) == text


@given(st.one_of(st.none(), st.integers(0, (1 << 64) - 1)))
def test_numbers_of_64_bits_come_back(number: int | None) -> None:
    (column,) = [column for column in schema.PROCESS if column.name == "cgroup_id"]
    with closing(sqlite3.connect(":memory:")) as database:
        ((stored,),) = database.execute("SELECT ?", (column.put(number),))
    assert column.get(stored) == number


@pytest.mark.parametrize("names", [(), ("a",), ("a", 'b,"c'), ("\udcff\n",)])
def test_names_come_back(names: tuple[str, ...]) -> None:
    (column,) = [column for column in schema.CONNECTION if column.name == "dest_names"]
    assert column.get(column.put(names)) == names


def test_digest_tells_values_apart() -> None:
    assert (
        len(
            {
                schema.digest(*values)
                for values in [("a", "b"), ("ab",), ("a", None), (None, "a"), ("\udcff",), ()]
            }
        )
        == 6
    )

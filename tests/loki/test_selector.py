# SPDX-License-Identifier: MIT
"""Queries are narrowed without changing what else they ask for."""

from __future__ import annotations

import pytest

from pyegress.loki.selector import parts


@pytest.mark.parametrize(
    ("query", "narrowed"),
    [
        ('{job="pyegress"}', '{host="web1",job="pyegress"}'),
        (' { job = "a" , } ', '{host="web1",job = "a" } '),
        ('{job=~"a}|b", x="\\"}"} |= "{" | y="}"', '{host="web1",job=~"a}|b", x="\\"}"} |= "{" | y="}"'),
        ('{a=`}"`} != "b"', '{host="web1",a=`}"`} != "b"'),
    ],
)
def test_where(query: str, narrowed: str) -> None:
    """Braces within strings end nothing."""
    assert parts(query).where("host", "web1") == narrowed


def test_value_of_somebody_else() -> None:
    """It stays a string whatever is in it."""
    query = parts('{job="a"}').where("host", 'x"} or {job="b\\\n')
    assert query == '{host="x\\"} or {job=\\"b\\\\\\n",job="a"}'
    assert parts(query).rest == ""


@pytest.mark.parametrize("query", ["", "job", "{}", '{job="a"', 'sum(rate({job="a"}[1m]))', '{job="a}'])
def test_no_log_query(query: str) -> None:
    """Said before anything is asked."""
    with pytest.raises(ValueError, match="must be a log query"):
        parts(query)

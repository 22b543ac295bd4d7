# SPDX-License-Identifier: MIT
"""Labels are checked before anything starts."""

from __future__ import annotations

import pytest

from pyegress.loki.labels import labels, stream_labels


def test_labels() -> None:
    """Upstream's form; a value may hold everything but a comma."""
    assert labels("", ()) == {}
    assert labels("env=prod,Site_1=a=b c:\\é", ()) == {"env": "prod", "Site_1": "a=b c:\\é"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "'a' must be NAME=VALUE"),
        ("a=", "'a=' must be NAME=VALUE"),
        ("a=1,", "'' must be NAME=VALUE"),
        ("1a=x", "'1a' can't be a label"),
        ("a-b=x", "'a-b' can't be a label"),
        ("é=x", "'é' can't be a label"),
        ("a\n=x", "can't be a label"),
        ("__a=x", "'__a' can't be a label"),
        ("=x", "'' can't be a label"),
        ("a=1,a=2", "'a' is given twice"),
        ("process=x", "'process' is a field of every record"),
        ("a=\x1b[31m", "the value of 'a' must be printable"),
        ("a=\udcff", "the value of 'a' must be printable"),
    ],
)
def test_wrong_labels(text: str, says: str) -> None:
    """What is wrong is named."""
    with pytest.raises(ValueError) as raised:
        labels(text, ("process",))
    assert says in str(raised.value)


def test_stream_labels() -> None:
    """Fields by name."""
    assert stream_labels("", ("a",)) == frozenset()
    assert stream_labels("b,a", ("a", "b", "c")) == {"a", "b"}


def test_unknown_stream_label() -> None:
    """The nearest is named."""
    with pytest.raises(ValueError, match="no field 'proces' can be a label; did you mean 'process'?"):
        stream_labels("destport,proces", ("destport", "process"))

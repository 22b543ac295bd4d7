# SPDX-License-Identifier: MIT
"""The plugin interfaces: what a plugin must have, and what it may leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pyegress import plugin
from pyegress.plugin import Batch, Context, Input, Output


class Least(Output):
    """An output with nothing that it need not have."""

    name = "least"
    summary = "for tests"
    Options = plugin.Options

    def __init__(self, options: plugin.Options) -> None: ...

    def open(self, context: Context) -> None: ...

    def write(self, batch: Batch) -> None: ...

    def close(self) -> None: ...


def test_optional_steps_of_an_output_do_nothing() -> None:
    """An output without buffer and file needs neither flush nor reopen."""
    output = Least(plugin.Options())
    steps: list[Callable[[], Any]] = [output.flush, output.reopen]
    assert [step() for step in steps] == [None, None]


@pytest.mark.parametrize(
    ("base", "missing"),
    [
        (Input, {"__init__", "open", "read", "stop", "close"}),
        (Output, {"__init__", "open", "write", "close"}),
    ],
)
def test_required_steps(base: Any, missing: set[str]) -> None:
    """A plugin that lacks a step fails when it is made, not when the step is due."""
    incomplete: Any = type("Incomplete", (base,), {})
    with pytest.raises(TypeError, match="abstract"):
        incomplete(plugin.Options())
    assert incomplete.__abstractmethods__ == missing


def test_options_are_spelled_with_hyphens_and_no_others() -> None:
    """A field `some_key` is the option `some-key`; what is not declared is an error."""

    class Some(plugin.Options, frozen=True, kw_only=True):
        some_key: int = 0

    assert msgspec.convert({"some-key": 1}, Some).some_key == 1
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"some_key": 1}, Some)

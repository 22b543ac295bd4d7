# SPDX-License-Identifier: MIT
"""A batch of the ring's bytes -> records -> lines."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.made import BATCH, TS, connections, decoder, raw
from pyegress.losses import Losses
from pyegress.outputs.json import Json, JsonOptions
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.outputs.text import Text, TextOptions
from pyegress.plugin import Context, Output

PROGRAMS = 16


@pytest.mark.parametrize("programs", [1, PROGRAMS])
def test_ring_to_records(benchmark: BenchmarkFixture, programs: int) -> None:
    made, data = decoder(), raw(programs=programs)
    assert len(benchmark(made.decode, data, TS)) == BATCH


@pytest.mark.parametrize("programs", [1, PROGRAMS, BATCH])
@pytest.mark.parametrize(
    "output",
    [
        Logfmt(LogfmtOptions(file="/dev/null")),
        Json(JsonOptions(file="/dev/null")),
        Text(TextOptions(file="/dev/null")),
    ],
    ids=lambda output: output.name,
)
def test_records_to_lines(benchmark: BenchmarkFixture, output: Output, programs: int) -> None:
    output.open(Context(Losses(), print, print))
    benchmark(output.write, connections(programs=programs))
    output.close()

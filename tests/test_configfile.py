# SPDX-License-Identifier: MIT
"""The config file: what it says, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.configfile import read
from pyegress.errors import UsageError


def test_tables_and_values(tmp_path: Path) -> None:
    """Plugins in the order of the file; every value as a command line would have it."""
    file = tmp_path / "x.toml"
    file.write_text(
        "[outputs.logfmt]\n[outputs.text]\n[inputs.ebpf]\nquiet = true\nignore-port = [53, '8000-8100']\n"
        "window = '1m'\n[filters]\nignore-comm = 'curl'\n"
    )
    found = read(str(file))
    assert list(found.outputs) == ["logfmt", "text"]
    assert [(given.key, given.text) for given in found.inputs["ebpf"].options] == [
        ("quiet", "true"),
        ("ignore-port", "53"),
        ("ignore-port", "8000-8100"),
        ("window", "1m"),
    ]
    assert [(given.key, given.text) for given in found.filters] == [("ignore-comm", "curl")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[input.ebpf]", ": input: no such table; did you mean 'inputs'?"),
        ("debug = true", ": debug: no such table; known: inputs, outputs, filters"),
        ("inputs = 'ebpf'", ": inputs: must be tables: [inputs.NAME]"),
        ("[inputs]\nebpf = 5", ": inputs.ebpf: must be a table: [inputs.ebpf]"),
        (
            "[inputs.ebpf]\nwindow = 1.5",
            ": inputs.ebpf.window: must be a text, a whole number, true or false",
        ),
        ("[filters]\nignore-port = [[53]]", ": filters.ignore-port: must be a text, a whole number"),
        ("[inputs.ebpf]\nwindow = 10s", ":2: not TOML: "),
        ('"\\u001b" = 1', ": \\\\u001b: no such table"),
    ],
)
def test_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    """File, table and key, or the line."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        read(str(file))
    assert str(raised.value).startswith(f"{file}{message}".replace("\\\\", "\\"))


def test_file_that_cant_be_read() -> None:
    """The reason."""
    with pytest.raises(UsageError, match="^/no/file: No such file or directory$"):
        read("/no/file")

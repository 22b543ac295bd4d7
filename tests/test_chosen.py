# SPDX-License-Identifier: MIT
"""Which plugins are used with which options, by command line and config file; and what a second look changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.chosen import Asked, change, choose
from pyegress.errors import UsageError

CONFIG = """
[inputs.ebpf]
ignore-port = [53]
window = "1m"
[outputs.logfmt]
file = "-"
[filters]
ignore-port = 123
ring = "1M"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A place for a config file."""
    return tmp_path / "x.toml"


def test_command_line_is_added_and_wins(file: Path) -> None:
    """Lists add up from [filters] over the plugin's table to the command line; of single values the last one holds."""
    file.write_text(CONFIG.replace('ring = "1M"\n', ""))
    words = ("ebpf:ignore-port:443", "ebpf:window:5s")
    found = choose(
        Asked(config=str(file), inputs=["nflog"], input_options=words, outputs=["text"], output_options=[])
    )
    ebpf = found.inputs["ebpf"].options
    assert list(found.inputs) == ["ebpf", "nflog"] and list(found.outputs) == ["logfmt", "text"]
    assert [str(ports) for ports in ebpf.ignore_port] == ["123", "53", "443"]  # type: ignore[attr-defined]
    assert ebpf.window == 5_000_000_000  # type: ignore[attr-defined]
    assert [str(ports) for ports in found.inputs["nflog"].options.ignore_port] == ["123"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONFIG, "FILE: filters.ring: no such filter; known: "),
        ("[inputs.epbf]", "FILE: inputs.epbf: no such input 'epbf'; did you mean 'ebpf'?"),
        ("[outputs.logfnt]", "FILE: outputs.logfnt: no such output 'logfnt'; did you mean 'logfmt'?"),
        ("[inputs.ebpf]\nfoo = 1", "FILE: inputs.ebpf.foo: no such option; did you mean "),
        ("[inputs.ebpf]\nquite = true", "FILE: inputs.ebpf.quite: no such option; did you mean 'quiet'?"),
        ("[inputs.ebpf]\nwindow = 5", "FILE: inputs.ebpf.window = 5: must be a duration with a unit"),
        ("[inputs.ebpf]\nquiet = [true, true]", "FILE: inputs.ebpf.quiet: given twice"),
        ("[outputs.loki]", "FILE: outputs.loki.url: missing; give outputs.loki.url = VALUE"),
        ("[inputs.pcap]", "FILE: inputs.pcap: give either device or file"),
    ],
)
def test_mistake_in_a_file_has_its_place(file: Path, text: str, message: str) -> None:
    """File, table and key."""
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        choose(Asked(config=str(file)))
    assert str(raised.value).startswith(message.replace("FILE", str(file)))


def test_what_needs_a_restart_is_named(file: Path) -> None:
    """Other plugins and other options than filters; each is said again as long as it is so."""
    file.write_text("[inputs.ebpf]\n[outputs.logfmt]\nfile = '-'\n[filters]\nignore-port = 1\n")
    running = choose(Asked(config=str(file)))
    file.write_text(
        "[inputs.ebpf]\nring = '8M'\nquiet = true\nignore-port = 2\n[inputs.nflog]\n[outputs.logfmt]\nfile = 'x'\n"
    )
    for _ in range(2):
        said: list[str] = []
        running = change(running, choose(Asked(config=str(file))), said.append)
        assert sorted(said) == [
            f"{file}: input nflog: needs a restart",
            f"{file}: inputs.ebpf.quiet: needs a restart",
            f"{file}: inputs.ebpf.ring: needs a restart",
            f"{file}: outputs.logfmt.file: needs a restart",
        ]
    ebpf = running.inputs["ebpf"].options
    assert [str(ports) for ports in ebpf.ignore_port] == ["2"]  # type: ignore[attr-defined]
    assert ebpf.ring == 4 << 20  # type: ignore[attr-defined]


def test_nothing_named_is_the_default() -> None:
    """An input that falls back, and text."""
    found = choose(Asked())
    assert list(found.outputs) == ["text"] and found.has_default_output
    assert found.loud == {"ebpf", "pcap"}
    assert found.sources[0].name == "ebpf"

# SPDX-License-Identifier: MIT
"""The output writes a file that nft loads, whole, at exit and when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyegress import options
from pyegress.errors import UsageError
from pyegress.losses import Losses
from pyegress.outputs.nftables import Nftables, NftablesOptions
from pyegress.plugin import Context
from pyegress.record import Connection
from pyegress.rules.read_nft import own_table, read_text


def test_file(tmp_path: Path) -> None:
    """Evidence at its head, then the table; the later one takes the place of the earlier."""
    path = tmp_path / "rules"
    output = Nftables(NftablesOptions(file=str(path)))
    losses = Losses()
    losses.add("lost", "ring\nfull", 3)
    output.open(Context(losses, print, print))
    counts = []
    for port in (443, 80):
        output.write([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", port)])
        output.look()
        counts.append(len(read_text(path.read_text())[0].entries))
    output.close()
    text = path.read_text()
    assert (counts, own_table(text)) == ([2, 3], "pyegress")
    assert "# lost: 3 (ring\\nfull)\n# INCOMPLETE" in text
    assert path.stat().st_mode & 0o777 == 0o640


def test_json(tmp_path: Path) -> None:
    """The same as data."""
    path = tmp_path / "rules"
    output = Nftables(NftablesOptions(file=str(path), format="json"))
    output.open(Context(Losses(), print, print))
    output.write([Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443)])
    output.close()
    (rule,) = json.loads(path.read_text())["rules"]
    assert (rule["network"], rule["ports"], rule["count"]) == ("192.0.2.1", [[443, 443]], 1)


@pytest.mark.parametrize("name", ["filter", "pyegress-x", "pyegress;flush", ""])
def test_table_is_ours(name: str) -> None:
    """It can't be somebody else's."""
    with pytest.raises(UsageError, match="nftables:table"):
        options.parse("-O", "nftables", NftablesOptions, [("table", name)])

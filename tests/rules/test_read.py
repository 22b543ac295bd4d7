# SPDX-License-Identifier: MIT
"""Which firewall a file is for, by what is in it, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.errors import InputError
from pyegress.rules import read
from pyegress.rules.addresses import Family

NFT = """\
# rules
add table inet pyegress
delete table inet pyegress
table inet pyegress {
  chain output {
    type filter hook output priority filter; policy accept;
    ip daddr 192.0.2.1 tcp dport 443 accept
  }
}
"""
RESTORE = "# rules\n*filter\n:PYEGRESS - [0:0]\n-A PYEGRESS -p tcp -j ACCEPT\n-A OUTPUT -j PYEGRESS\nCOMMIT\n"
COMMANDS = "# rules\niptables -I OUTPUT -p tcp -j ACCEPT\n"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (NFT, "nft"),
        ("flush ruleset\n" + NFT, "nft"),
        ("table inet x {\n", "nft"),
        (RESTORE, "restore"),
        ("*mangle\n", "restore"),
        (COMMANDS, "commands"),
        ("sudo /sbin/ip6tables -A OUTPUT -j DROP\n", "commands"),
        ('{"nftables": [{"metainfo": {}}]}', "nft-json"),
        ('{"ts":1,"hook":"ebpf"}', None),
        ("ts=1 hook=ebpf protocol=tcp", None),
        ("table of contents", None),
        ("# only a comment", None),
        ("", None),
        ("\udcff\0", None),
    ],
)
def test_kind_is_told_by_the_first_statement(text: str, kind: str | None, tmp_path: Path) -> None:
    assert read.kind_of(text) == kind
    path = tmp_path / "file"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read.is_rules_file(str(path)) == (kind is not None)
    assert read.text_of(str(path)) == text


def test_only_files_are_rules(tmp_path: Path) -> None:
    for name in ("-", str(tmp_path), str(tmp_path / "missing"), "\0"):
        assert not read.is_rules_file(name)


@pytest.mark.parametrize(
    ("text", "kind", "family", "families"),
    [
        (NFT, "nft", None, [(4, 6)]),
        (RESTORE, "restore", 6, [(6,)]),
        (COMMANDS, "commands", None, [(4,)]),
        (COMMANDS + "ip6tables -I OUTPUT -p tcp -j ACCEPT\n", "commands", None, [(4,), (6,)]),
        ("# not ip6tables -F\n" + COMMANDS, "commands", None, [(4,)]),
        ('{"nftables": []}', "nft-json", None, []),
    ],
)
def test_families_are_those_in_the_file(
    text: str, kind: read.Kind, family: Family | None, families: list[tuple[int, ...]]
) -> None:
    assert [each.families for each in read.firewalls("f", text, kind, family)] == families


def test_errors_name_the_file_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^a\\\\nb: line 2: "):
        read.firewalls("a\nb", "*filter\nnonsense\n", "restore", 4)
    with pytest.raises(InputError, match="^f: cannot tell IPv4 from IPv6; add --family"):
        read.firewalls("f", RESTORE, "restore", None)
    with pytest.raises(InputError, match="No such file"):
        read.text_of(str(tmp_path / "rules"))
    (tmp_path / "rules.v4").touch()
    with pytest.raises(InputError, match="did you mean .*rules.v4\\?"):
        read.text_of(str(tmp_path / "rules"))
    with pytest.raises(InputError, match="null"):
        read.text_of("\0")


def test_what_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match="more than 1 MiB"):
        read.text_of("/dev/zero")


def test_a_restore_file_fills_our_chain_or_output() -> None:
    assert read.fills_own_chain(RESTORE)
    assert not read.fills_own_chain("*filter\n-A OUTPUT -j ACCEPT\nCOMMIT\n")

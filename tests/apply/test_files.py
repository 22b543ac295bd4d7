# SPDX-License-Identifier: MIT
"""Which file is for what, and what is refused before any program sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.apply import files
from pyegress.errors import InputError, UsageError
from tests.applying import nft_file, restore_files


def whats(*paths: Path, family: int | None = None) -> list[str]:
    """What the parts are for."""
    return [part.what for part in files.parts([str(path) for path in paths], family)]  # type: ignore[arg-type]


def test_kinds(tmp_path: Path) -> None:
    """By their content, not their names; IPv4 comes first."""
    v4, v6 = restore_files(tmp_path)
    assert whats(nft_file(tmp_path)) == ["table inet pyegress"]
    assert whats(v6, v4) == ["chain PYEGRESS of iptables", "chain PYEGRESS of ip6tables"]


@pytest.mark.parametrize(
    ("name", "text", "family"),
    [
        ("x.v4", "", 4),
        ("x.v6", "-d 192.0.2.1", 6),
        ("x", "-A PYEGRESS -d 192.0.2.1/32 -j ACCEPT", 4),
        ("x", "-A PYEGRESS -d ::1 -p tcp --dport 80:90 -j ACCEPT", 6),
        ("x", "-A PYEGRESS -p icmpv6 -j ACCEPT", 6),
        ("x", "-A PYEGRESS -p icmp -j ACCEPT", 4),
        ("x", '-A PYEGRESS -m comment --comment "to \\" 192.0.2.1 icmp" -j ACCEPT', None),
        ("x", "-A PYEGRESS -m comment --comment icmp -p tcp --dport 80 -j ACCEPT", None),
        ("x", "# 192.0.2.1\n-A PYEGRESS -j RETURN", None),
        ("x", "-A PYEGRESS -s 192.0.2.1 -d 2001:db8::1", None),
    ],
)
def test_family(name: str, text: str, family: int | None) -> None:
    """The ending, else addresses and protocols outside comments."""
    assert files.family_of(name, f"*filter\n:PYEGRESS - [0:0]\n{text}\nCOMMIT\n") == family


def test_family_is_asked_for(tmp_path: Path) -> None:
    """Where nothing tells; --family says it, also against the name."""
    path = tmp_path / "rules"
    path.write_text("*filter\n:PYEGRESS - [0:0]\n-A PYEGRESS -j RETURN\n-A OUTPUT -j PYEGRESS\nCOMMIT\n")
    with pytest.raises(UsageError, match="cannot tell IPv4 from IPv6"):
        whats(path)
    assert whats(path, family=6) == ["chain PYEGRESS of ip6tables"]


def test_wrong_sets(tmp_path: Path) -> None:
    """Each with what to give instead."""
    v4, v6 = restore_files(tmp_path)
    nft = nft_file(tmp_path)
    for paths, message in [
        ((nft, v4), "for nft and for iptables"),
        ((nft, nft), "more than one nft file"),
        ((v4, v4), "two files for IPv4"),
    ]:
        with pytest.raises(UsageError, match=message):
            whats(*paths)
    with pytest.raises(UsageError, match="--family: only for files of iptables-restore"):
        whats(nft, family=4)
    with pytest.raises(UsageError, match="two files for IPv6"):
        whats(v4, v6, family=6)


def test_unreadable(tmp_path: Path) -> None:
    """One line each, fit for a terminal."""
    restore_files(tmp_path)
    with pytest.raises(InputError, match="/9: No such file .*; did you mean .*/9.v4 .*/9.v6"):
        whats(tmp_path / "9")
    with pytest.raises(InputError, match="Is a directory"):
        whats(tmp_path)
    with pytest.raises(InputError, match=r"a\\u001b: No such file"):
        whats(tmp_path / "a\x1b")
    with pytest.raises(InputError, match="null"):
        whats(tmp_path / "a\0")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="empty; nothing was changed"):
        whats(tmp_path / "empty")


def test_commands_are_not_a_file_of_rules(tmp_path: Path) -> None:
    """The default of the iptables output is for a shell."""
    path = tmp_path / "rules.sh"
    path.write_text("# rules\niptables -I OUTPUT -d 192.0.2.1 -j ACCEPT\n")
    with pytest.raises(
        InputError, match="holds iptables commands; apply takes files of -O iptables:format:restore"
    ):
        whats(path)


@pytest.mark.parametrize(
    "foreign", ["flush ruleset", "table inet filter { }", 'include "/etc/nftables.conf"']
)
def test_foreign_nft_statement(foreign: str, tmp_path: Path) -> None:
    """Named with the file; text from the file is fit for a terminal."""
    path = nft_file(tmp_path)
    path.write_text(f"{path.read_text()}{foreign}\n")
    with pytest.raises(InputError) as caught:
        whats(path)
    assert str(caught.value).startswith(f"{path}:") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "foreign", ["-F", "-P OUTPUT DROP", "-A INPUT -j DROP", ":OUTPUT DROP [0:0]", "-X MINE"]
)
def test_foreign_iptables_line(foreign: str, tmp_path: Path) -> None:
    """The same for iptables-restore."""
    path = restore_files(tmp_path)[0]
    path.write_text(path.read_text().replace("COMMIT", f"{foreign}\nCOMMIT"))
    with pytest.raises(InputError) as caught:
        whats(path)
    assert str(caught.value).startswith(f"{path}:") and str(caught.value).isprintable()


def test_table_of_somebody_else(tmp_path: Path) -> None:
    """Though the file makes it anew and does nothing else."""
    path = nft_file(tmp_path)
    path.write_text(path.read_text().replace("inet pyegress", "inet filter"))
    with pytest.raises(InputError, match="table inet filter: tables of pyegress have names that begin with"):
        whats(path)
    path.write_text(path.read_text().replace("inet filter", "inet pyegress_two"))
    assert whats(path) == ["table inet pyegress_two"]


@pytest.mark.parametrize("char", ["\0", "\r", "\x0c", "\x1b", "\x85", "\u2028"], ids=ascii)
def test_control_characters(char: str, tmp_path: Path) -> None:
    """Where a line ends must be the same for all who read it."""
    for path in (nft_file(tmp_path), restore_files(tmp_path)[0]):
        path.write_text(f"# x\n# {char} flush ruleset\n{path.read_text()}", newline="")
        with pytest.raises(InputError) as caught:
            whats(path)
        assert str(caught.value).startswith(f"{path}:2: holds ") and str(caught.value).isprintable()

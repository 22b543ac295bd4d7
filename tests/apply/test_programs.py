# SPDX-License-Identifier: MIT
"""The programs' words, and programs that aren't there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.apply import programs
from pyegress.apply.programs import Complaint, ProgramError
from pyegress.errors import UnsupportedError
from tests.netns import needs_netfilter


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (
            "/dev/stdin:8:29-42: Error: cgroupv2 path fails: No such file or directory\n  socket ...\n  ^^^^\n",
            Complaint(8, "cgroupv2 path fails: No such file or directory"),
        ),
        (
            "Error: No such file or directory\nlist table inet x\n                ^\n",
            Complaint(None, "No such file or directory"),
        ),
        (
            "netlink: Error: cache initialization failed: Operation not permitted\n",
            Complaint(None, "netlink: Error: cache initialization failed: Operation not permitted"),
        ),
        (
            'iptables-nft-restore v1.8.9 (nf_tables): unknown option "--foo"\nError occurred at line: 3\n'
            "Try `iptables-nft-restore -h' or 'iptables-nft-restore --help' for more information.\n",
            Complaint(3, 'unknown option "--foo"'),
        ),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 4: CHAIN_DEL failed (Device or resource busy): chain X\n",
            Complaint(4, "CHAIN_DEL failed (Device or resource busy): chain X"),
        ),
        ("iptables-restore: line 4 failed\n", Complaint(4, "refused")),
        ("/dev/stdin:1:1-2: Error: \x1b[2J\n", Complaint(1, "\\u001b[2J")),
        ("\n", Complaint(None, "refused")),
    ],
)
def test_complaint(said: str, complaint: Complaint) -> None:
    """The line of the input, and one line that is fit for a terminal."""
    assert programs.complaint_of(said) == complaint


def test_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is named with the package that has it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(UnsupportedError, match="nft: not found; .* apt install nftables"):
        programs.run("nft")
    with pytest.raises(UnsupportedError, match="ip6tables-save: not found; .* apt install iptables"):
        programs.run("ip6tables-save")


@needs_netfilter
def test_path_without_sbin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after a plain su."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.run("nft", "--version").startswith("nftables")


def test_failure_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still an error."""
    with pytest.raises(ProgramError, match="false: failed"):
        programs.run("false")


def test_program_that_cant_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of another machine, say."""
    path = tmp_path / "nft"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="nft: cannot run: Exec format error"):
        programs.run("nft")


def test_text_is_its_input() -> None:
    """Whole, byte for byte; what isn't UTF-8 comes back too."""
    text = b"a\xff\n" * 100_000
    assert programs.run("cat", text=text).encode("utf-8", "surrogateescape") == text

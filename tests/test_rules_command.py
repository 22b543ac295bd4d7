# SPDX-License-Identifier: MIT
"""`pyegress rules` from the command line: make, verify, compare."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.record import Connection, Process
from tests.island import Island
from tests.netns import needs_netfilter


def rules(*words: str | Path, island: Island | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    command = [sys.executable, "-m", "pyegress", "rules", *map(str, words)]
    done = subprocess.run(
        island.inside(*command) if island else command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three connections by a program with a hostile name, and a damaged line."""
    process = Process(pid=1, name="a\nb$(id)", uid=1000, user="alice")
    seen = [
        Connection(
            10**18 + at, "ebpf", "tcp", 6 if ":" in ip else 4, ip, 443, process=process, attribution="kernel"
        )
        for at, ip in enumerate(["192.0.2.1", "192.0.2.2", "2001:db8::1"])
    ]
    path = tmp_path / "log"
    path.write_text(Logfmt(LogfmtOptions()).lines(seen) + "damaged\n")
    return path


@pytest.mark.parametrize("form", ["nftables", "iptables"])
def test_make_and_verify(form: str, log: Path, tmp_path: Path) -> None:
    """What is made of a log lets all of it through; without one rule it doesn't."""
    code, out, err = rules("--as", form, "--verbose", "1", log)
    assert (code, "damaged" in out) == (0, False)
    assert "no record of pyegress" in err
    made = tmp_path / "rules"
    made.write_text(out)
    code, said, _ = rules("--verify", made, log)
    assert (code, said.splitlines()[0]) == (0, "0 of 3 observed connections would be dropped")
    dropping, _, _ = rules("--as", "nftables", "--policy", "drop", "--file", made, log)
    made.write_text("".join(line for line in made.read_text().splitlines(True) if "192.0.2.2 ." not in line))
    code, said, _ = rules("--verify", made, log)
    assert (dropping, code, said.splitlines()[0]) == (0, 1, "1 of 3 observed connections would be dropped:")
    assert "tcp 192.0.2.2:443: 1 by a\\nb$(id)" in said


def test_restore_files(log: Path, tmp_path: Path) -> None:
    """A pair, of which each is for one family."""
    code, _, _ = rules("--as", "restore", "--merge", "ports", "--policy", "reject", "-f", tmp_path / "r", log)
    assert code == 0
    code, said, _ = rules("--verify", tmp_path / "r.v4", "--verify", tmp_path / "r.v6", log)
    assert (code, said.splitlines()[0]) == (0, "0 of 3 observed connections would be dropped")
    code, said, _ = rules("--verify", tmp_path / "r.v4", log)
    assert "1 IPv6 connection not judged: the rules are for IPv4 only" in said


def test_json(log: Path) -> None:
    """As data, for other programs."""
    code, out, _ = rules("--as", "json", "--scope", "user", log)
    assert code == 0
    assert {rule["uid"] for rule in json.loads(out)["rules"]} == {1000}


@needs_netfilter
def test_diff(log: Path, tmp_path: Path) -> None:
    """Against what is live: all missing, then the same, then one too many."""
    made = tmp_path / "rules"
    rules("--file", made, log)
    island = Island()
    try:
        code, said, _ = rules("--diff", log, island=island)
        assert (code, said.splitlines()[0]) == (1, "missing (wanted, not live): 3")
        island.run("nft", "-f", made)
        for wanted in (log, made):
            code, said, _ = rules("--diff", wanted, island=island)
            assert code == 0
            assert "never hit: 3" in said
        island.run("nft", "add", "element", "inet", "pyegress", "any_tcp4", "{ 192.0.2.9 . 1 }")
        code, said, _ = rules("--diff", made, island=island)
        assert (code, "superfluous (live, not wanted): 1" in said) == (1, True)
    finally:
        island.close()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--scope", "nobody"], 2, "must be one of any, user, unit"),
        (["--as", "restore"], 2, "makes two files"),
        (["--as", "iptables", "--baseline"], 2, "needs a chain of its own"),
        (["--as", "iptables", "--table", "pyegress"], 2, "--table: not with --as iptables"),
        (["--verify", "/dev/null", "--diff"], 2, "either --verify or --diff"),
        (["--verify", "/dev/null"], 1, "is no file of rules"),
        (["--verify", "/missing"], 1, "No such file"),
        (["/missing"], 1, "/missing"),
    ],
)
def test_mistakes(words: list[str], code: int, said: str, log: Path) -> None:
    """One line with the way on."""
    status, out, err = rules(*words, log)
    assert (status, out) == (code, "")
    assert said in err
    assert "Traceback" not in err

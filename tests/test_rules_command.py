# SPDX-License-Identifier: MIT
"""`pyegress rules` from the command line: make, verify, compare."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.outputs.sqlite import Sqlite, SqliteOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.island import Island
from tests.netns import needs_netfilter

BESIDE = "makes PATH.ipset too, with the sets of names; give --file PATH"


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


@needs_netfilter
@pytest.mark.parametrize("merge", ["exact", "ports"])
def test_diff_of_iptables(merge: str, log: Path, tmp_path: Path) -> None:
    """What the user has in OUTPUT isn't pyegress' to remove, and says nothing of whether ours is there."""
    rules("--as", "restore", "--merge", merge, "--policy", "drop", "--baseline", "-f", tmp_path / "r", log)
    files = [tmp_path / "r.v4", tmp_path / "r.v6"]
    island = Island()
    try:
        for program in ("iptables", "ip6tables"):
            island.run(program, "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
        code, said, err = rules("--diff", *files, island=island)
        assert (code, "superfluous (live, not wanted): 0" in said) == (1, True)
        assert "the chain PYEGRESS is not loaded here" in err
        for program, file in zip(("iptables-restore", "ip6tables-restore"), files, strict=True):
            island.run(program, "--noflush", str(file))
        code, said, err = rules("--diff", *files, island=island)
        assert (code, said.splitlines()[0], err) == (0, "missing (wanted, not live): 0", "")
        code, said, _ = rules("--diff", "--merge", merge, "--baseline", log, island=island)
        assert (code, said.splitlines()[:2]) == (
            0,
            ["missing (wanted, not live): 0", "superfluous (live, not wanted): 0"],
        )
        island.run("ip6tables", "-A", "PYEGRESS", "-d", "2001:db8::9", "-j", "ACCEPT")
        code, said, _ = rules("--diff", *files, island=island)
        assert (code, "superfluous (live, not wanted): 1" in said) == (1, True)
        assert "2001:db8::9" in said
    finally:
        island.close()


def test_a_fleet_in_one(log: Path, tmp_path: Path) -> None:
    """Several logs, one compressed, give rules for all of them."""
    other = tmp_path / "other.gz"
    seen = [Connection(10**18, "ebpf", "udp", 4, "192.0.2.53", 53)]
    other.write_bytes(gzip.compress(Logfmt(LogfmtOptions()).lines(seen).encode()))
    made = tmp_path / "made"
    assert rules("--policy", "drop", "-f", made, log, other)[0] == 0
    assert rules("--verify", made, log, other)[1].startswith("0 of 4 observed connections would be dropped")
    assert rules("--policy", "drop", "-f", made, log)[0] == 0
    assert rules("--verify", made, log, other)[1].startswith("1 of 4 observed connections would be dropped")


def test_what_a_store_lost_is_told_with_its_rules(log: Path, tmp_path: Path) -> None:
    """Nothing is said that isn't so: neither that a store wouldn't tell, nor that a log beside it would."""
    store = tmp_path / "store.db"
    seen = Connection(10**18, "ebpf", "udp", 4, "192.0.2.53", 53)
    for lost in (0, 5):
        output, losses = Sqlite(SqliteOptions(file=str(store))), Losses()
        output.open(Context(losses, print, print))
        output.write([seen])
        losses.add("lost", "ebpf: ring buffer full", lost)
        output.close()
        code, out, err = rules(store)
        assert code == 0 and "A log does not tell" not in out
        assert ("# lost: 5 (ebpf: ring buffer full)\n" in out) == ("# INCOMPLETE: " in out) == bool(lost)
        assert ("lost: 5 ebpf: ring buffer full" in err) == bool(lost)
        if not lost:
            log.write_text(log.read_text().replace("damaged\n", ""))
            assert "# A log does not tell" in rules(store, log)[1]


def test_commands_of_one_family_do_not_judge_the_other(log: Path, tmp_path: Path) -> None:
    """Nothing was said of IPv6, so nothing is let through by a policy."""
    made = tmp_path / "made"
    assert rules("--as", "iptables", "--family", "4", "-f", made, log)[0] == 0
    code, said, _ = rules("--verify", made, log)
    assert code == 0
    assert "1 IPv6 connection not judged: the rules are for IPv4 only" in said


@pytest.mark.parametrize("words", [[], ["--as", "json"], ["--verify"], ["--diff"]])
def test_logs_without_anything_usable(words: list[str], log: Path, tmp_path: Path) -> None:
    """They give no rules, and prove none."""
    made = tmp_path / "made"
    rules("-f", made, log)
    empty = tmp_path / "empty"
    inbound = Connection(10**18, "pcap", "tcp", 4, "192.0.2.1", 443, direction="in")
    empty.write_text(Logfmt(LogfmtOptions()).lines([inbound]))
    code, _, err = rules(*words, *([made] if words == ["--verify"] else []), empty)
    assert code == 1
    assert f"no outbound connection in {empty}" in err


def test_rules_for_nobody_that_was_seen(log: Path, tmp_path: Path) -> None:
    """Scoped rules let through only those whose connections were seen."""
    made = tmp_path / "made"
    assert rules("--scope", "user", "--policy", "drop", "-f", made, log)[0] == 0
    assert rules("--verify", made, log)[0] == 0
    log.write_text(log.read_text().replace("uid=1000", "uid=1001"))
    code, said, _ = rules("--verify", made, log)
    assert (code, said.splitlines()[0]) == (1, "3 of 3 observed connections would be dropped:")


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
        (["--scope", "user", "--verify", "/dev/null"], 2, "--scope: not with --verify"),
        (["--as", "json", "--diff"], 2, "--as json: not with --diff"),
        (
            ["--as", "iptables", "--policy", "drop"],
            2,
            "--policy drop: needs a chain of its own; use --as restore",
        ),
        (["--diff", "README.md", "tests/data/../truth.py"], 1, "not a log of pyegress"),
        (["--verbose", "3"], 2, "--verbose 3: must be 0..2"),
        (["--verify", "\x1b[2J"], 1, "\\u001b[2J: No such file"),
    ],
)
def test_mistakes(words: list[str], code: int, said: str, log: Path) -> None:
    """One line with the way on."""
    status, out, err = rules(*words, log)
    assert (status, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Connections to a name that leads to two addresses, one of which has another one too."""
    seen = [
        Connection(
            10**18, "ebpf", "tcp", 4, ip, 443, dest_names=names, dest_name_sources=("dns",) * len(names),
            dest_name_ages=(0,) * len(names), attribution="process gone",
        )
        for ip, names in (("192.0.2.1", ("a.example",)), ("192.0.2.2", ("a.example", "b.example")), ("192.0.2.3", ()))
    ]  # fmt: skip
    path = tmp_path / "named.log"
    path.write_text(Logfmt(LogfmtOptions()).lines(seen))
    return path


def test_by_name(named: Path, tmp_path: Path) -> None:
    """Which other names pass is told; proofs look into the sets, also those of the file beside."""
    file = tmp_path / "r"
    for form, proved in (("nftables", ["r"]), ("restore", ["r.v4", "r.v6"])):
        code, _, err = rules("--merge", "name", "--as", form, "--policy", "drop", "-f", file, named)
        assert code == 0
        assert "a rule for one of them lets the others through: 192.0.2.2 (a.example, b.example)" in err
        code, said, _ = rules(*(word for name in proved for word in ("--verify", tmp_path / name)), named)
        assert (code, said.splitlines()[0]) == (0, "0 of 3 observed connections would be dropped")
    sets = Path(f"{file}.ipset")
    sets.write_text("".join(line for line in sets.read_text().splitlines(True) if " 192.0.2.1 " not in line))
    code, said, _ = rules("--verify", f"{file}.v4", named)
    assert (code, said.splitlines()[0]) == (1, "1 of 3 observed connections would be dropped:")
    sets.unlink()
    code, _, err = rules("--verify", f"{file}.v4", named)
    assert (code, err) == (
        1,
        f"pyegress: {sets}: No such file or directory; it holds the sets of {file}.v4\n",
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--as", "iptables"), "--merge name: needs sets; use --as restore"),
        (
            ("--as", "restore", "--family", "4"),
            "--merge name: makes PATH.ipset too, with the sets of names; give --file PATH",
        ),
        (("--grace", "30s"), "--grace 30s: must be 1m..24d"),
    ],
)
def test_by_name_is_not_for_all(words: tuple[str, ...], told: str, named: Path) -> None:
    """What can't hold sets is refused."""
    assert rules("--merge", "name", *words, named) == (2, "", f"pyegress: {told}\n")

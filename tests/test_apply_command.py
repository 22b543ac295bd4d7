# SPDX-License-Identifier: MIT
"""`pyegress apply`: every way to keep rules, and every way they are taken back, with the real programs."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.rules import iptables, nft
from pyegress.rules.addresses import BITS
from pyegress.rules.model import Observations
from pyegress.rules.options import RuleOptions
from pyegress.rules.shape import plan
from tests.applying import (
    PATIENCE_S,
    QUESTION,
    apply,
    await_end,
    backend_path,
    command,
    load_users_rules,
    may_send,
    nft_file,
    restore_files,
    state,
    waiting,
    watchdog_of,
)
from tests.netns import needs_netfilter, own_netns, run

pytestmark = needs_netfilter

KINDS = ["nft", "iptables"]


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Each test has its own, with rules of its user in it."""
    with own_netns():
        load_users_rules()
        yield


def files(kind: str, folder: Path, port: int = 9) -> list[Path]:
    """Those of one kind."""
    return [nft_file(folder, port)] if kind == "nft" else restore_files(folder, port)


def ours(port: int = 9) -> bool:
    """Whether rules for that port are loaded."""
    return f"dport {port} " in run("nft list ruleset")


@pytest.mark.parametrize("kind", KINDS)
def test_yes_keeps(kind: str, tmp_path: Path) -> None:
    """The rules work while they are on trial, and stay; what they were loaded for is said."""
    with waiting(*files(kind, tmp_path)) as trial:
        assert not may_send()
        trial.answer("yes\n")
        code, said = trial.end()
    assert (code, said) == (0, "pyegress: kept\n")
    what = "table inet pyegress" if kind == "nft" else "chain PYEGRESS of iptables"
    assert f"pyegress: loaded {what}: 1 rule\n" in trial.said
    assert not may_send()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_read_until_one_is_understood(kind: str, tmp_path: Path) -> None:
    """Neither `y` nor an empty line decides."""
    with waiting(*files(kind, tmp_path)) as trial:
        trial.answer("y\n\n YES \n")
        code, said = trial.end()
    assert code == 0
    assert said.count("not understood") == 2 and said.endswith("pyegress: kept\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "what\n"], ids=["end of file", "other words"])
def test_time_takes_back(kind: str, text: str, tmp_path: Path) -> None:
    """Whether nobody answers or nobody is there to."""
    before = state()
    done = apply(*files(kind, tmp_path), "--confirm", 1, text=text)
    assert done.returncode == 1
    assert "pyegress: taken back: no answer within 1 s; " in done.stderr.splitlines()[-1]
    assert state() == before
    assert may_send()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGHUP, "the terminal or connection is gone"),
        (signal.SIGQUIT, "SIGQUIT"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_signals_take_back(kind: str, number: signal.Signals, reason: str, tmp_path: Path) -> None:
    """With the reason, and exit status 1."""
    before = state()
    with waiting(*files(kind, tmp_path)) as trial:
        trial.process.send_signal(number)
        code, said = trial.end()
    assert code == 1
    assert said.startswith(f"pyegress: taken back: {reason}; ")
    assert state() == before


def test_no_takes_back(tmp_path: Path) -> None:
    """At once."""
    before = state()
    with waiting(nft_file(tmp_path)) as trial:
        trial.answer("no\n")
        assert trial.end() == (1, "pyegress: taken back: you said no; table inet pyegress removed\n")
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_killed_takes_back(kind: str, tmp_path: Path) -> None:
    """kill -9: the watchdog is alone and ends in order."""
    before = state()
    with waiting(*files(kind, tmp_path)) as trial:
        watchdog = trial.watchdog
        trial.process.kill()
        await_end(watchdog)
        trial.end()
    assert state() == before
    assert apply(nft_file(tmp_path), "--confirm", 0).returncode == 0, "nobody is in the way any more"


@pytest.mark.parametrize("kind", KINDS)
def test_killed_watchdog_takes_back(kind: str, tmp_path: Path) -> None:
    """Then the foreground does it, and says so."""
    before = state()
    with waiting(*files(kind, tmp_path)) as trial:
        os.kill(trial.watchdog, signal.SIGKILL)
        code, said = trial.end()
    assert code == 1
    assert said.startswith("pyegress: taken back: the watchdog was killed; ")
    assert state() == before


def test_connection_that_hangs(tmp_path: Path) -> None:
    """A foreground that does nothing any more: the time takes back, and another session keeps."""
    before = state()
    with waiting(nft_file(tmp_path), confirm=1) as trial:
        watchdog = trial.watchdog
        trial.process.send_signal(signal.SIGSTOP)
        await_end(watchdog)
        assert state() == before
        trial.process.send_signal(signal.SIGCONT)
        assert trial.end()[0] == 1
    with waiting(nft_file(tmp_path)) as trial:
        trial.process.send_signal(signal.SIGSTOP)
        assert apply("--keep").returncode == 0
        trial.process.send_signal(signal.SIGCONT)
        assert trial.end() == (0, "pyegress: kept\n")
    assert ours()


def test_terminated_watchdog_takes_back(tmp_path: Path) -> None:
    """As at the end of a login session whose processes systemd ends."""
    before = state()
    with waiting(nft_file(tmp_path)) as trial:
        os.kill(trial.watchdog, signal.SIGTERM)
        assert trial.end() == (1, "pyegress: taken back: SIGTERM; table inet pyegress removed\n")
    assert state() == before


def test_watchdog_is_out_of_reach(tmp_path: Path) -> None:
    """Its own session, no terminal, none of the streams, and the signals of a terminal change nothing."""
    with waiting(nft_file(tmp_path)) as trial:
        watchdog = trial.watchdog
        assert os.getsid(watchdog) == watchdog
        streams = {Path(f"/proc/{watchdog}/fd/{number}").readlink() for number in (0, 1, 2)}
        assert streams == {Path(os.devnull)}
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            os.kill(watchdog, number)
        trial.answer("yes\n")
        assert trial.end()[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_previous_version_comes_back(kind: str, tmp_path: Path) -> None:
    """With its counts and its place among the user's rules."""
    assert apply(*files(kind, tmp_path, 7), "--confirm", 0).returncode == 0
    assert not may_send(7)
    if kind == "iptables":
        run("iptables -A OUTPUT -p tcp --dport 8 -j DROP")
    before = state()
    with waiting(*files(kind, tmp_path)) as trial:
        assert ours(9) and not ours(7)
        trial.answer("no\n")
        code, said = trial.end()
    assert code == 1
    assert "is as it was before" in said
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_applied_again_and_again(kind: str, tmp_path: Path) -> None:
    """The rules of the last one, and one jump."""
    for port in (7, 8, 9):
        assert apply(*files(kind, tmp_path, port), text="yes\n").returncode == 0
    assert (may_send(7), may_send(8), may_send(9)) == (True, True, False)
    if kind == "iptables":
        for tables in ("iptables", "ip6tables"):
            assert run(f"{tables}-save").count("-j PYEGRESS\n") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_for_good_at_once(kind: str, tmp_path: Path) -> None:
    """--confirm 0 asks nothing."""
    done = apply(*files(kind, tmp_path), "--confirm", 0)
    assert done.returncode == 0
    assert QUESTION not in done.stderr
    assert done.stderr.endswith("pyegress: loaded for good\n")
    assert ours()


@pytest.mark.parametrize("kind", KINDS)
def test_remove(kind: str, tmp_path: Path) -> None:
    """Ours goes, the user's stays; then there is nothing to remove, which is fine."""
    before = state()
    assert apply(*files(kind, tmp_path), "--confirm", 0).returncode == 0
    done = apply("--remove")
    assert done.returncode == 0
    assert "removed" in done.stderr
    assert state() == before
    done = apply("--remove")
    assert done.returncode == 0
    assert done.stderr == (
        "pyegress: nothing to remove: neither table inet pyegress nor a chain PYEGRESS is there\n"
    )


def test_remove_another_table() -> None:
    """Only one with a name of ours."""
    run("nft add table inet pyegress_nflog")
    before = state()
    done = apply("--remove", "--table", "mine")
    assert (done.returncode, state()) == (2, before)
    done = apply("--remove", "--table", "pyegress_nflog")
    assert (done.returncode, done.stderr) == (0, "pyegress: table inet pyegress_nflog removed\n")


@pytest.mark.parametrize("kind", KINDS)
def test_keep_from_another_process(kind: str, tmp_path: Path) -> None:
    """Both say it, and both are right."""
    with waiting(*files(kind, tmp_path)) as trial:
        done = apply("--keep")
        assert (done.returncode, done.stderr) == (0, "pyegress: kept\n")
        assert trial.end() == (0, "pyegress: kept\n")
    assert ours()


def test_keep_without_a_trial() -> None:
    """There is nothing to keep."""
    done = apply("--keep")
    assert done.returncode == 1
    assert done.stderr.startswith("pyegress: apply --keep: no `pyegress apply` waits")


def test_second_apply_is_refused(tmp_path: Path) -> None:
    """While one waits nothing else is applied or removed; the first goes on."""
    with waiting(nft_file(tmp_path)) as trial:
        for arguments in ([nft_file(tmp_path, 7)], ["--remove"]):
            done = apply(*arguments)
            assert done.returncode == 1
            assert "another `pyegress apply` waits for its answer" in done.stderr
        assert ours(9) and not ours(7)
        trial.answer("yes\n")
        assert trial.end()[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_broken_file_changes_nothing(kind: str, tmp_path: Path) -> None:
    """The line is said, and what it is."""
    paths = files(kind, tmp_path)
    text = paths[-1].read_text()
    if kind == "nft":
        paths[-1].write_text(text.replace('"lo"', '"longer_than_15_is"'))
        line = 7
    else:
        paths[-1].write_text(text.replace("-p udp", "-p nosuch"))
        line = 4
    assert apply(*files(kind, tmp_path, 7), "--confirm", 0).returncode == 0
    before = state()
    done = apply(*paths)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"pyegress: {paths[-1]}:{line}: ")
    assert done.stderr.endswith("nothing was changed\n")
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_statement_is_refused(kind: str, tmp_path: Path) -> None:
    """A file that does anything but ours does nothing."""
    paths = files(kind, tmp_path)
    before = state()
    foreign = "flush ruleset\n" if kind == "nft" else "*filter\n-F OUTPUT\nCOMMIT\n"
    paths[-1].write_text(paths[-1].read_text() + foreign)
    done = apply(*paths, "--confirm", 0)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pyegress: {paths[-1]}:")
    assert done.stderr.endswith("nothing was changed\n") and done.stderr.count("\n") == 1
    assert state() == before


def test_second_file_that_fails_takes_the_first_back(tmp_path: Path) -> None:
    """What only the kernel refuses, after the check: a cgroup that isn't there."""
    paths = restore_files(tmp_path)
    text = paths[1].read_text()
    paths[1].write_text(text.replace("-p udp -m udp --dport 9", "-m cgroup --path /nosuch"))
    before = state()
    done = apply(*paths, "--confirm", 0)
    assert done.returncode == 1
    assert "pyegress: ip6tables-restore: " in done.stderr and "; taken back: " in done.stderr
    assert state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_writers(kind: str, tmp_path: Path) -> None:
    """What the outputs write, of a hostile name too; twice, and removed."""
    seen = Observations("test", Losses())
    process = Process(pid=7, comm="x", name='"; $(id) `-A OUTPUT` \\ \n!')
    seen.add(
        [
            Connection(1, "ebpf", "udp", 4, "198.18.0.1", 9, process=process),
            Connection(2, "ebpf", "tcp", 6, "2001:db8::1", 443, process=process),
        ]
    )
    made = plan(seen, RuleOptions(policy="drop", verbose=2))
    texts = {"rules": nft.lines(made, "pyegress", lambda _: True)}
    if kind == "iptables":
        texts = {f"rules.v{family}": iptables.restore_lines(made, family, lambda _: True) for family in BITS}
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    for _ in range(2):
        done = apply(*(tmp_path / name for name in texts), "--confirm", 0)
        assert done.returncode == 0, done.stderr
    assert may_send(9) and not may_send(7)
    if kind == "iptables":
        assert run("iptables-save").count("-j PYEGRESS\n") == 1
    assert apply("--remove").returncode == 0
    assert may_send(7)


def test_one_family_only(tmp_path: Path) -> None:
    """The other is let be; the family is told by the addresses, or by --family."""
    path = tmp_path / "rules"
    path.write_text(restore_files(tmp_path)[1].read_text())
    assert apply(path, "--confirm", 0).returncode == 0
    assert "PYEGRESS" in run("ip6tables-save") and "PYEGRESS" not in run("iptables-save")
    path.write_text("*filter\n:PYEGRESS - [0:0]\n-A PYEGRESS -j RETURN\n-A OUTPUT -j PYEGRESS\nCOMMIT\n")
    done = apply(path)
    assert done.returncode == 2
    assert "cannot tell IPv4 from IPv6; add --family 4 or --family 6" in done.stderr
    assert apply(path, "--confirm", 0, "--family", 4).returncode == 0
    assert "PYEGRESS" in run("iptables-save")


def test_both_firewalls(tmp_path: Path) -> None:
    """Rules of ours that stay in force beside the new ones are named; --remove removes all."""
    before = state()
    assert apply(nft_file(tmp_path), "--confirm", 0).returncode == 0
    done = apply(*restore_files(tmp_path), "--confirm", 0)
    assert "pyegress: table inet pyegress is loaded as well, and both decide; " in done.stderr
    done = apply(nft_file(tmp_path), "--confirm", 0)
    assert "is loaded as well, and both decide; " in done.stderr
    assert len(apply("--remove").stderr.splitlines()) == 3
    assert state() == before


@pytest.fixture
def legacy(tmp_path: Path) -> dict[str, str]:
    """Where iptables is the legacy one."""
    return {"PATH": backend_path(tmp_path, "legacy")}


def test_legacy_backend(legacy: dict[str, str], tmp_path: Path) -> None:
    """The host's default is used; tables of the other backend are said."""
    run("iptables-legacy -A OUTPUT -p tcp --dport 6 -j DROP && ip6tables-legacy -N PYEGRESS")
    before = state()
    done = apply(*restore_files(tmp_path), "--confirm", 1, env=legacy)
    assert done.returncode == 1
    assert "pyegress: iptables: this host has tables of the nft backend too, and both decide;" in done.stderr
    assert state() == before
    assert apply(*restore_files(tmp_path), "--confirm", 0, env=legacy).returncode == 0
    assert "PYEGRESS" in run("iptables-legacy-save") and "PYEGRESS" not in run("iptables-save")
    done = apply(*restore_files(tmp_path), "--confirm", 0)
    assert "pyegress: iptables: this host has tables of the legacy backend too, and both" in done.stderr
    assert len(apply("--remove").stderr.splitlines()) == 4


class Terminal:
    """One that `apply` has been started in."""

    def __init__(self, *arguments: str | Path) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command(*arguments)], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.said = ""

    def type(self, text: str) -> None:
        """As somebody at its keyboard does."""
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Read up to it."""
        while text not in self.said:
            assert select.select([self._ours], [], [], PATIENCE_S)[0], self.said
            self.said += os.read(self._ours, 4096).decode()

    def close(self) -> None:
        """Hang up."""
        os.close(self._ours)


@pytest.mark.parametrize(
    ("key", "reason"),
    [("\x03", "interrupted"), ("\x04", "the terminal is at its end")],
    ids=["ctrl-c", "ctrl-d"],
)
def test_keys_of_a_terminal_take_back(key: str, reason: str, tmp_path: Path) -> None:
    """Both mean no."""
    before = state()
    terminal = Terminal(nft_file(tmp_path))
    terminal.wait_for(QUESTION)
    terminal.type(key)
    terminal.wait_for(f"pyegress: taken back: {reason}; ")
    assert terminal.process.wait(PATIENCE_S) == 1
    assert state() == before
    terminal.close()


def test_hangup_takes_back(tmp_path: Path) -> None:
    """The terminal is gone, and whoever would have answered."""
    before = state()
    terminal = Terminal(nft_file(tmp_path))
    terminal.wait_for(QUESTION)
    assert ours()
    terminal.close()
    assert terminal.process.wait(PATIENCE_S) == 1
    assert state() == before


def test_answer_before_the_question_is_none(tmp_path: Path) -> None:
    """What was typed before the rules were in force says nothing about them."""
    terminal = Terminal(nft_file(tmp_path))
    terminal.type("yes\n")
    terminal.wait_for(QUESTION)
    terminal.type("no\n")
    terminal.wait_for("taken back: you said no")
    assert terminal.process.wait(PATIENCE_S) == 1
    terminal.close()


SLOW = """\
#!/bin/sh
if [ "$1" = -f ] && mkdir {folder}/once 2>/dev/null; then
  echo > {folder}/begun
  read _ < {folder}/go
fi
exec {nft} "$@"
"""
"""nft whose first load begins and waits."""


@pytest.mark.parametrize("victim", ["foreground", "watchdog"])
def test_killed_while_it_loads(victim: str, tmp_path: Path) -> None:
    """Nobody takes back before the load that was begun has ended."""
    before = state()
    nft = tmp_path / "nft"
    nft.write_text(SLOW.format(folder=tmp_path, nft=shutil.which("nft")))
    nft.chmod(0o755)
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    with subprocess.Popen(
        command("--confirm", 1000, nft_file(tmp_path)),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    ) as process:
        (tmp_path / "begun").read_text()
        watchdog = watchdog_of(process.pid)
        ended = os.pidfd_open(watchdog)
        os.kill(watchdog if victim == "watchdog" else process.pid, signal.SIGKILL)
        (tmp_path / "go").write_text("\n")
        _, said = process.communicate(timeout=PATIENCE_S)
        assert select.select([ended], [], [], PATIENCE_S)[0]
        os.close(ended)
    if victim == "watchdog":
        assert process.returncode == 1
        assert said.startswith("pyegress: taken back: the watchdog was killed; ")
    assert state() == before


def test_same_bytes_are_checked_and_loaded(tmp_path: Path) -> None:
    """A file that can be read once only."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write(nft_file(tmp_path).read_text())
    done = subprocess.run(
        command("--confirm", 0, f"/dev/fd/{reading}"),
        pass_fds=(reading,),
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    os.close(reading)
    assert done.returncode == 0
    assert ours()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "apply: give either files, --keep or --remove"),
        (["--keep", "--remove"], "apply: give either files, --keep or --remove"),
        (["x", "--keep"], "apply: give either files, --keep or --remove"),
        (["--remove", "--family", "4"], "--family: only with a file"),
        (["x", "--table", "y"], "--table: only with --remove; a file says its table itself"),
        (
            ["--remove", "--table", "filter"],
            "--table filter: tables of pyegress have names that begin with pyegress",
        ),
        (["--confirm", "1m", "x"], "--confirm 1m: must be a number of seconds, 0..86400"),
        (["--confirm", "-1", "x"], "--confirm -1: must be a number of seconds, 0..86400"),
        (["--confirm", "86401", "x"], "--confirm 86401: must be a number of seconds, 0..86400"),
    ],
)
def test_wrong_words(arguments: list[str], message: str) -> None:
    """One line, and exit status 2."""
    done = apply(*arguments)
    assert (done.returncode, done.stderr) == (2, f"pyegress: {message}\n")


def test_without_rights(tmp_path: Path) -> None:
    """One line with the way on, before anything is tried."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *command(nft_file(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr == "pyegress: apply: missing CAP_NET_ADMIN; run as root, for example with sudo\n"

# SPDX-License-Identifier: MIT
"""The lines are upstream's, and the real iptables-restore and shells read them the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyegress.errors import OutputError, UsageError
from pyegress.losses import Losses
from pyegress.outputs.iptables import Iptables, IptablesOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.rules.test_quote import HOSTILE

ROOT = Process(pid=1, name="systemd", user="root")
BASH = Process(pid=20, name="bash", user="ubuntu", parent=ROOT)
CURL = Process(pid=300, name="curl", user="ubuntu", cmdline="curl https://www.devops.works", parent=BASH)
NAMES = [name for name, _ in HOSTILE]
SHOWN = [shown for _, shown in HOSTILE]


def connection(dest_ip: str = "146.148.13.123", process: Process | None = CURL, **more: object) -> Connection:
    given: dict[str, object] = {"protocol": "tcp", "dest_port": 443} | more
    version = 6 if ":" in dest_ip else 4
    return Connection(1, "ebpf", ip_version=version, dest_ip=dest_ip, process=process, **given)  # type: ignore[arg-type]


def written(
    tmp_path: Path,
    *batch: Connection,
    losses: Losses | None = None,
    notices: list[str] | None = None,
    **options: object,
) -> list[str]:
    path = tmp_path / "rules"
    output = Iptables(IptablesOptions(file=str(path), **options))  # type: ignore[arg-type]
    say = print if notices is None else notices.append
    output.open(Context(losses or Losses(), say, print))
    output.write(batch)
    assert not path.exists()
    output.close()
    output.close()
    if not path.exists():
        return []
    text = path.read_text()
    path.unlink()
    assert text.endswith("\n")
    return text.split("\n")[:-1]


RULE = 'iptables -I OUTPUT -d 146.148.13.123 -p tcp -m tcp --dport 443 -j ACCEPT -m comment --comment "curl"'


def test_upstream_lines(tmp_path: Path) -> None:
    assert written(tmp_path, connection()) == [RULE]
    assert written(tmp_path, connection(), verbose=1) == [
        "# [ebpf] Line generated for curl running as ubuntu",
        RULE,
    ]
    assert written(tmp_path, connection(), verbose=2) == [
        '# [ebpf] Line generated for curl running as ubuntu with command "curl https://www.devops.works"',
        "# [ebpf] Parent of this process was bash running as ubuntu",
        "# [ebpf] Grandparent of this process was systemd running as root",
        RULE,
    ]


def test_unknown_parts_are_left_out(tmp_path: Path) -> None:
    nobody = connection(process=None)
    assert written(tmp_path, nobody, verbose=2) == [
        "# [ebpf] Line generated for an unknown process",
        RULE.replace("curl", "unknown process"),
    ]
    orphan = connection(process=Process(pid=5, name="curl", parent=Process(pid=1)))
    assert written(tmp_path, orphan, verbose=2) == [
        "# [ebpf] Line generated for curl",
        "# [ebpf] Parent of this process was an unknown process",
        RULE,
    ]


def test_families_protocols_and_link_local(tmp_path: Path) -> None:
    lines = written(
        tmp_path,
        connection("192.0.2.1", protocol="1", dest_port=None),
        connection("2001:db8::1", protocol="udp", dest_port=53),
        connection("fe80::1", ifname="eth0"),
    )
    end = ' -j ACCEPT -m comment --comment "curl"'
    assert lines == [
        f"iptables -I OUTPUT -d 192.0.2.1 -p 1{end}",
        f"ip6tables -I OUTPUT -o eth0 -d fe80::1 -p tcp -m tcp --dport 443{end}",
        f"ip6tables -I OUTPUT -d 2001:db8::1 -p udp -m udp --dport 53{end}",
    ]


def test_link_local_without_interface_says_how_wide_it_is(tmp_path: Path) -> None:
    assert written(tmp_path, connection("fe80::1")) == [
        "# [ebpf] Its interface is not known: this link-local rule holds on every interface",
        'ip6tables -I OUTPUT -d fe80::1 -p tcp -m tcp --dport 443 -j ACCEPT -m comment --comment "curl"',
    ]


def test_losses_are_said_first(tmp_path: Path) -> None:
    losses = Losses()
    losses.add("lost", "ring buffer\nfull", 5)
    losses.add("skipped", "filter", 9)
    assert written(tmp_path, connection(), losses=losses) == [
        "# incomplete: 5 connections were lost (ring buffer\\nfull)",
        RULE,
    ]


def test_nothing_seen_writes_nothing_and_says_so_once(tmp_path: Path) -> None:
    notices: list[str] = []
    assert written(tmp_path, connection(direction="in"), notices=notices) == []
    assert notices == ["iptables: no outbound connection was seen that a rule could allow"]


def test_files_of_restore(tmp_path: Path) -> None:
    """One for each family, or the one that was asked for; and a look in between is a whole file."""
    seen = [connection(), connection("2001:db8::1")]
    output = Iptables(IptablesOptions(file=str(tmp_path / "rules"), format="restore"))
    output.open(Context(Losses(), print, print))
    output.write(seen[:1])
    output.look()
    both = [(tmp_path / f"rules.v{family}").read_text() for family in (4, 6)]
    assert all(text.endswith("-A OUTPUT -j PYEGRESS\nCOMMIT\n") for text in both)
    assert ["-d 146.148.13.123 -p tcp" in text for text in both] == [True, False]
    output.write(seen[1:])
    output.close()
    both = [(tmp_path / f"rules.v{family}").read_text() for family in (4, 6)]
    assert ["-d 146.148.13.123 -p tcp" in text for text in both] == [True, False]
    assert ["-d 2001:db8::1 -p tcp" in text for text in both] == [False, True]
    assert {path.name for path in tmp_path.iterdir()} == {"rules.v4", "rules.v6"}
    lines = written(tmp_path, *seen, format="restore", family="6")
    assert [line for line in lines if " -d " in line] == [
        '-A PYEGRESS -d 2001:db8::1 -p tcp -m tcp --dport 443 -j ACCEPT -m comment --comment "curl"'
    ]


def test_one_family_of_commands(tmp_path: Path) -> None:
    lines = written(tmp_path, connection(), connection("2001:db8::1"), family="4")
    assert lines == [RULE]


def test_evidence_of_commands(tmp_path: Path) -> None:
    """Only where it was asked for, and above everything."""
    losses = Losses()
    losses.add("lost", "x", 5)
    lines = written(tmp_path, connection(), evidence=True, losses=losses)
    assert lines[0].startswith("# observed: 0s from ")
    assert lines[-3:] == [
        "# lost: 5 (x)",
        "# INCOMPLETE: some connections were not recorded, so rules for them may be missing",
        RULE,
    ]


def test_json(tmp_path: Path) -> None:
    made = json.loads(
        "\n".join(written(tmp_path, connection(), connection("::1"), format="json", family="4"))
    )
    assert [rule["network"] for rule in made["rules"]] == ["146.148.13.123"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": True}, "iptables:baseline: needs a chain of its own; add -O iptables:format:restore"),
        (
            {"policy": "drop"},
            "iptables:policy:drop: needs a chain of its own; add -O iptables:format:restore",
        ),
        ({"format": "restore"}, "makes two files; give -O iptables:file:PATH for PATH.v4 and PATH.v6"),
    ],
)
def test_what_a_format_cannot_hold(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Iptables(IptablesOptions(**options))  # type: ignore[arg-type]


def test_unit_whose_cgroup_is_gone_is_left_out(tmp_path: Path) -> None:
    """The kernel would refuse it, and the whole file with it."""
    gone = Process(
        pid=1, name="a", cgroup="/pyegress-gone.service", cgroup_id=3, unit="pyegress-gone.service"
    )
    lines = written(tmp_path, connection(process=gone), scope="unit")
    assert lines == [
        "# Left out: the cgroup of its unit is not there, so that nothing could be loaded with it: "
        '"pyegress-gone.service"',
        '# iptables -I OUTPUT -d 146.148.13.123 -p tcp -m tcp --dport 443 -m cgroup --path "pyegress-gone.service"'
        ' -j ACCEPT -m comment --comment "a"',
    ]


def test_full_disk_is_an_error() -> None:
    output = Iptables(IptablesOptions(file="/dev/full"))
    with pytest.raises(OutputError):
        output.write([connection()])
    output.open(Context(Losses(), print, print))
    output.write([connection()])
    with pytest.raises(OutputError, match="ENOSPC"):
        output.close()


def hostile(tmp_path: Path, verbose: int = 0) -> list[str]:
    """Lines for every hostile name, by address 192.0.2.0, .1, ..."""
    batch = []
    for at, name in enumerate(NAMES):
        parent = Process(pid=2, name=name, user=name)
        process = Process(pid=1, name=name, user=name, cmdline=name * 50, parent=parent)
        batch.append(connection(f"192.0.2.{at}", process))
    return written(tmp_path, *batch, verbose=verbose)


def test_comment_lines_stay_comments(tmp_path: Path) -> None:
    lines = hostile(tmp_path, verbose=2)
    assert sum(line.startswith("iptables -I OUTPUT -d 192.0.2.") for line in lines) == len(NAMES)
    assert sum(line.startswith("# [ebpf] ") for line in lines) == 2 * len(NAMES)
    assert len(lines) == 3 * len(NAMES)
    for line in lines:
        assert line.isprintable()
        # What is active in a shell stands in double quotes behind a backslash, even in a comment.
        outside = re.sub(r'"(?:[^"\\$`!]|\\["\\$`])*"', "", line)
        assert re.fullmatch(r"[A-Za-z0-9 #\[\].:/_+@-]*", outside)
        # One more byte, and iptables-restore would take the rest for a line.
        assert len(line.encode()) < 4096


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_shell_runs_only_iptables_with_the_shown_name(shell: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "iptables"
    stub.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\" END >> argv\n")
    stub.chmod(0o755)
    rules = "\n".join(hostile(tmp_path, verbose=2)) + "\n"
    search = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        [shell],
        input=rules.encode(),
        cwd=tmp_path,
        env={"PATH": search, "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout + done.stderr == b""
    calls = (tmp_path / "argv").read_bytes().decode().split("\0END\0")[:-1]
    common = "-I OUTPUT -d 192.0.2.{} -p tcp -m tcp --dport 443 -j ACCEPT -m comment --comment"
    assert [call.split("\0") for call in calls] == [
        [*common.format(at).split(), shown] for at, shown in enumerate(SHOWN)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "argv"}


def in_namespace(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-n", "sh", "-c", script], cwd=cwd, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def real_iptables(tmp_path: Path) -> None:
    """Skips where iptables can't be run in a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    for program in ("unshare", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    probe = in_namespace("iptables -S && ip6tables -S", tmp_path)
    if probe.returncode:
        pytest.skip(f"iptables does not run here: {probe.stderr.strip()}")


def restore_file(lines: list[str], program: str) -> str:
    body = [line.removeprefix(program + " ") for line in lines]
    return "\n".join(["*filter", *body, "COMMIT", ""])


def comments(listing: str) -> dict[str, str]:
    """Destination and comment of what `iptables -S` lists."""
    found = {}
    for line in listing.splitlines():
        match = re.fullmatch(r'-A OUTPUT -d (\S+) .*--comment ("(?:[^"\\]|\\.)*"|\S+) -j ACCEPT', line)
        if match:
            text = match[2]
            found[match[1]] = re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text
    return found


@pytest.mark.usefixtures("real_iptables")
@pytest.mark.parametrize("way", ["restore", "sh", "bash"])
def test_kernel_holds_the_shown_name(way: str, tmp_path: Path) -> None:
    lines = hostile(tmp_path, verbose=2)
    if way == "restore":
        (tmp_path / "in").write_text(restore_file(lines, "iptables"))
        script = "iptables-restore -n in && iptables -S"
    else:
        (tmp_path / "in").write_text("\n".join(lines) + "\n")
        script = f"{way} ./in && iptables -S"
    done = in_namespace(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert comments(done.stdout) == {f"192.0.2.{at}/32": shown for at, shown in enumerate(SHOWN)}
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.mark.usefixtures("real_iptables")
def test_every_kind_of_rule_loads(tmp_path: Path) -> None:
    lines = written(
        tmp_path,
        connection("2001:db8::1"),
        connection("fe80::1", ifname="eth0"),
        connection("ff02::fb", protocol="udp", dest_port=5353),
        connection("2001:db8::1", protocol="58", dest_port=None),
        connection("224.0.0.251", protocol="udp", dest_port=5353),
        connection("192.0.2.1", protocol="1", dest_port=None),
        verbose=2,
    )
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    done = in_namespace("sh ./in && iptables -S OUTPUT && ip6tables -S OUTPUT", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    end = "-m comment --comment curl -j ACCEPT"
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("-A")) == [
        f"-A OUTPUT -d 192.0.2.1/32 -p icmp {end}",
        f"-A OUTPUT -d 2001:db8::1/128 -p ipv6-icmp {end}",
        f"-A OUTPUT -d 2001:db8::1/128 -p tcp -m tcp --dport 443 {end}",
        f"-A OUTPUT -d 224.0.0.251/32 -p udp -m udp --dport 5353 {end}",
        f"-A OUTPUT -d fe80::1/128 -o eth0 -p tcp -m tcp --dport 443 {end}",
        f"-A OUTPUT -d ff02::fb/128 -p udp -m udp --dport 5353 {end}",
    ]


@pytest.mark.usefixtures("real_iptables")
def test_rule_is_deleted_by_its_own_text(tmp_path: Path) -> None:
    (line,) = written(tmp_path, connection(process=Process(pid=1, name="l" * 300)))
    script = "\n".join(["set -e", line, line.replace("-I OUTPUT", "-D OUTPUT"), "iptables -S OUTPUT"])
    done = in_namespace(script, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "-P OUTPUT ACCEPT\n")

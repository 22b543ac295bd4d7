# SPDX-License-Identifier: MIT
"""One connection is one line that a strict parser turns back into what was observed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process

ROOT = Process(pid=1, name="systemd", user="root")
BASH = Process(pid=20, name="bash", user="ubuntu", parent=ROOT)
CURL = Process(
    pid=300,
    name="curl",
    cmdline="curl https://www.devops.works",
    user="ubuntu",
    uid=1000,
    exe="/usr/bin/curl",
    cgroup_id=77,
    unit="session-1.scope",
    container="abc",
    parent=BASH,
)
INIT = Process(pid=1, name="systemd", exe="/usr/lib/systemd/systemd")
SSHD = Process(pid=812, name="sshd", exe="/usr/sbin/sshd", parent=INIT)
LOGIN = Process(pid=900, comm="bash", exe="/usr/bin/bash", parent=SSHD)
MAKE = Process(pid=950, name="make", exe="/usr/bin/make", parent=LOGIN)
RICH = Process(
    pid=1000,
    name="python3",
    cmdline="python3 fetch.py",
    cmdline_cut=True,
    script="fetch.py",
    exe="/usr/bin/python3.11",
    uid=0,
    gid=5,
    user="root",
    loginuid=1001,
    session_pid=900,
    session_name="bash",
    cgroup_id=88,
    cgroup="/user.slice/user-1001.slice/session-3.scope",
    unit="session-3.scope",
    user_unit="app.service",
    slice="user-1001.slice",
    login_session="3",
    container="0123456789abcdef",
    container_engine="podman",
    container_name="web",
    pod="0a1b-2c",
    netns=4026532000,
    pidns=4026532001,
    kernel=True,
    attribution="proc",
    parent=MAKE,
)
TS = 1_700_000_000_123_456_789

_PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([!#-<>-\[\]-~]+))')
_ESCAPE = re.compile(r'\\(?:(["\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))')


def unescape(text: str) -> str:
    """The opposite of the escapes; anything else after a backslash is an error."""

    def one(match: re.Match[str]) -> str:
        short, byte, four, eight = match.groups()
        if short:
            return {"n": "\n", "r": "\r", "t": "\t"}.get(short, short)
        return chr(0xDC00 + int(byte, 16)) if byte else chr(int(four or eight, 16))

    assert "\\" not in _ESCAPE.sub("", text)
    return _ESCAPE.sub(one, text)


def parse(line: str) -> dict[str, str]:
    """A strict reader: single spaces, no repeated key, nothing left over."""
    pairs: dict[str, str] = {}
    at = 0
    while True:
        match = _PAIR.match(line, at)
        assert match, line[at:]
        key, inside, bare = match.groups()
        assert key not in pairs
        pairs[key] = bare if inside is None else unescape(inside)
        at = match.end()
        if line[at:] == "\n":
            return pairs
        assert line[at] == " "
        at += 1


def lines(*batch: Connection) -> list[str]:
    return Logfmt(LogfmtOptions()).lines(batch).splitlines(keepends=True)


def connection(**changes: object) -> Connection:
    given: dict[str, object] = {
        "ts": TS,
        "hook": "ebpf",
        "protocol": "tcp",
        "ip_version": 4,
        "dest_ip": "146.148.13.123",
        "dest_port": 443,
    }
    return Connection(**(given | changes))  # type: ignore[arg-type]


def test_all_keys_in_order() -> None:
    (line,) = lines(
        connection(
            protocol="udp",
            src_ip="192.168.1.229",
            src_port=60166,
            count=3,
            result="EACCES",
            direction="in",
            netns=4026531840,
            ifname="eth0",
            process=CURL,
            tid=301,
            attribution="proc",
            dest_names=("a.example", "b.example"),
            dest_name_sources=("dns", "hosts"),
            dest_name_ages=(10, 0),
            dest_names_missing="no-answer",
            verdict="accept",
        )
    )
    assert line == (
        "ts=2023-11-14T22:13:20.123456789Z hook=ebpf protocol=udp dest_ip=146.148.13.123 dest_port=443 ip_version=4"
        ' proc_name=curl proc_pid=300 proc_user=ubuntu proc_cmdline="curl https://www.devops.works"'
        " parent_name=bash parent_pid=20 parent_user=ubuntu"
        " grandparent_name=systemd grandparent_pid=1 grandparent_user=root"
        " src_ip=192.168.1.229 src_port=60166 count=3 result=EACCES netns=4026531840 ifname=eth0 direction=in"
        " proc_uid=1000 proc_exe=/usr/bin/curl proc_cgroup_id=77 unit=session-1.scope container=abc"
        " attribution=proc dest_names=a.example,b.example"
        " dest_name_sources=dns,hosts dest_name_ages=10,0 dest_names_missing=no-answer verdict=accept\n"
    )


def test_all_keys_of_a_process_in_order() -> None:
    """What upstream has comes first; the rest stands beside its relatives."""
    (line,) = lines(
        connection(
            netns=4026531840,
            process=RICH,
            thread="worker-1",
            attribution="proc",
            kernel_socket=True,
            socket_uid=7,
        )
    )
    assert line == (
        "ts=2023-11-14T22:13:20.123456789Z hook=ebpf protocol=tcp dest_ip=146.148.13.123 dest_port=443 ip_version=4"
        ' proc_name=python3 proc_pid=1000 proc_user=root proc_cmdline="python3 fetch.py"'
        " parent_name=make parent_pid=950 grandparent_name=bash grandparent_pid=900"
        " netns=4026531840 kernel_socket=true socket_uid=7 proc_thread=worker-1"
        " proc_uid=0 proc_gid=5 proc_loginuid=1001 proc_session_pid=900 proc_session_name=bash"
        " proc_exe=/usr/bin/python3.11 proc_script=fetch.py proc_cmdline_cut=true proc_kernel=true"
        " parent_exe=/usr/bin/make grandparent_exe=/usr/bin/bash ancestors=sshd(812),systemd(1)"
        " proc_cgroup_id=88 proc_cgroup=/user.slice/user-1001.slice/session-3.scope"
        " unit=session-3.scope user_unit=app.service slice=user-1001.slice login_session=3"
        " container=0123456789abcdef container_name=web container_engine=podman pod=0a1b-2c"
        " proc_pidns=4026532001 proc_netns=4026532000 attribution=proc\n"
    )


def test_network_namespace_of_the_process_only_where_the_socket_is_of_another() -> None:
    """One process, whose text is kept, with sockets of several namespaces."""
    batch = lines(*[connection(process=RICH, netns=netns) for netns in (4026532000, 1, None, 4026532000)])
    assert [(pairs.get("netns"), pairs.get("proc_netns")) for pairs in map(parse, batch)] == [
        ("4026532000", None),
        ("1", "4026532000"),
        (None, "4026532000"),
        ("4026532000", None),
    ]
    (line,) = lines(connection(process=CURL, netns=1))
    assert "proc_netns" not in parse(line)


def test_thread_and_kernel_socket_belong_to_the_connection() -> None:
    given: list[dict[str, object]] = [
        {"thread": "a"},
        {"thread": "b"},
        {},
        {"kernel_socket": True},
        {"thread": "a"},
    ]
    batch = [parse(line) for line in lines(*[connection(process=CURL, **more) for more in given])]
    assert [pairs.get("proc_thread") for pairs in batch] == ["a", "b", None, None, "a"]
    assert [pairs.get("kernel_socket") for pairs in batch] == [None, None, None, "true", None]


def test_owner_of_the_socket_belongs_to_the_connection() -> None:
    batch = [
        parse(line) for line in lines(*[connection(process=CURL, socket_uid=n) for n in (0, 1000, None, 0)])
    ]
    assert [pairs.get("socket_uid") for pairs in batch] == ["0", "1000", None, "0"]
    assert {pairs["proc_uid"] for pairs in batch} == {"1000"}


@pytest.mark.parametrize("how", ["kernel", "proc", "sock_diag", "nflog-uid", "process has gone"])
@pytest.mark.parametrize("process", [CURL, None])
def test_every_record_says_how_it_was_attributed(how: str, process: Process | None) -> None:
    (line,) = lines(connection(process=process, attribution=how))
    assert parse(line)["attribution"] == how


def test_ancestors_beyond_the_grandparent() -> None:
    """Up to the last one that is known; a name may hold what separates them, and stays one value."""
    (line,) = lines(connection(process=LOGIN))
    assert "ancestors" not in parse(line)
    (line,) = lines(connection(process=MAKE))
    assert parse(line)["ancestors"] == "systemd(1)"
    process = Process(pid=8)
    for pid, name in ((7, 'a(1),b "x"\n'), (6, None), (5, "c"), (4, "d"), (3, "e")):
        process = Process(pid=pid, name=name, parent=process)
    (line,) = lines(connection(process=process))
    assert parse(line)["ancestors"] == '(6),a(1),b "x"\n(7),(8)'


def test_unknown_is_left_out() -> None:
    assert lines(connection(dest_port=None, protocol="1", ip_version=4)) == [
        "ts=2023-11-14T22:13:20.123456789Z hook=ebpf protocol=1 dest_ip=146.148.13.123 ip_version=4 count=1\n"
    ]
    (line,) = lines(connection(process=Process(pid=7, comm="x", parent=Process(pid=1))))
    assert line.endswith(" ip_version=4 proc_name=x proc_pid=7 parent_pid=1\n")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain/name-1.0:~", "plain/name-1.0:~"),
        ("a b", '"a b"'),
        ("x=y", '"x=y"'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nb", r'"a\nb"'),
        ("a\\nb", r'"a\\nb"'),
        ("", '""'),
        ("a\tb", r'"a\tb"'),
        ("a\rb", r'"a\rb"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("\x9b\u202e\u2028", r'"\u009b\u202e\u2028"'),
        ("é", '"é"'),
        (b"\xff\xfe".decode(errors="surrogateescape"), r'"\udcff\udcfe"'),
        ("\\xff", r'"\\xff"'),
        ("x\nts=2023 hook=forged", r'"x\nts=2023 hook=forged"'),
    ],
)
def test_values_round_trip(text: str, written: str) -> None:
    process = Process(
        pid=1,
        name=text,
        user=text,
        cmdline=text,
        exe=text,
        script=text,
        session_name=text,
        cgroup=text,
        unit=text,
        user_unit=text,
        slice=text,
        login_session=text,
        container=text,
        container_engine=text,
        container_name=text,
        pod=text,
        parent=Process(
            pid=2, name=text, exe=text, parent=Process(pid=3, exe=text, parent=Process(pid=4, name=text))
        ),
    )
    (line,) = lines(
        connection(process=process, ifname=text, thread=text, attribution=text, dest_names=(text or "x",))
    )
    assert f" proc_name={written} " in line
    pairs = parse(line)
    for key in (
        *("proc_name", "proc_user", "proc_cmdline", "proc_exe", "parent_name", "ifname"),
        *("proc_thread", "proc_script", "proc_session_name", "parent_exe", "grandparent_exe", "proc_cgroup"),
        *("unit", "user_unit", "slice", "login_session"),
        *("container", "container_name", "container_engine", "pod", "attribution"),
    ):
        assert pairs[key] == text, key
    assert pairs["ancestors"] == f"{text}(4)"
    assert pairs["dest_names"] == (text or "x")


def test_no_time_is_left_out() -> None:
    """A packet of a capture may have none; that is not 1970."""
    first, second = lines(connection(ts=0), connection())
    assert first.startswith("hook=") and "ts=" not in first
    assert second.startswith("ts=2023")


@pytest.mark.parametrize(
    ("ts", "text"),
    [
        (1, "1970-01-01T00:00:00.000000001Z"),
        (TS // 10**9 * 10**9 + 999_999_999, "2023-11-14T22:13:20.999999999Z"),
        (-5, "1970-01-01T00:00:00.000000000Z"),
        (2**70, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_time(ts: int, text: str) -> None:
    # The one before and after prove that the cached second is left and found again.
    batch = lines(connection(), connection(ts=ts), connection())
    assert [parse(line)["ts"] for line in batch] == [
        "2023-11-14T22:13:20.123456789Z",
        text,
        "2023-11-14T22:13:20.123456789Z",
    ]


def test_caches_never_mix_records_up() -> None:
    output = Logfmt(LogfmtOptions())
    for at in range(20_000):
        # Each Process dies at once, so that ids repeat.
        process = Process(pid=at, name=f"p{at}")
        given = connection(process=process, dest_ip=f"10.0.{at // 256}.{at % 256}", netns=at)
        del process
        pairs = parse(output.lines([given]))
        assert (pairs["proc_pid"], pairs["proc_name"]) == (str(at), f"p{at}")
        assert (pairs["dest_ip"], pairs["netns"]) == (given.dest_ip, str(at))
    assert len(output._rest) <= 8192


def test_file_gets_whole_batches_and_follows_reopen(tmp_path: Path) -> None:
    path = tmp_path / "egress.log"
    output = Logfmt(LogfmtOptions(file=str(path)))
    with pytest.raises(OutputError):
        output.write([connection()])
    output.open(Context(Losses(), print, print))
    output.write([connection(src_port=port) for port in range(1, 1001)])
    path.rename(tmp_path / "old")
    output.reopen()
    output.write([])
    output.write([connection(src_port=9)])
    output.close()
    output.close()
    old = [parse(line) for line in (tmp_path / "old").read_text().splitlines(keepends=True)]
    assert [int(pairs["src_port"]) for pairs in old] == list(range(1, 1001))
    assert parse(path.read_text())["src_port"] == "9"


def test_secrets_in_arguments_are_hidden_unless_asked_for() -> None:
    process = Process(pid=1, name="x", cmdline="x --password=geheim a", script="http://u:geheim@h/s.js")
    (line,) = lines(connection(process=process))
    assert "geheim" not in line and parse(line)["proc_cmdline"] == "x --password=*** a"
    line = Logfmt(LogfmtOptions(redact=False)).lines([connection(process=process)])
    assert parse(line)["proc_cmdline"] == "x --password=geheim a"
    assert parse(line)["proc_script"] == "http://u:geheim@h/s.js"


def test_full_disk_is_an_error() -> None:
    output = Logfmt(LogfmtOptions(file="/dev/full"))
    output.open(Context(Losses(), print, print))
    with pytest.raises(OutputError, match="ENOSPC"):
        output.write([connection()])
    output.close()

# SPDX-License-Identifier: MIT
"""What is pushed to a real server comes back from it as it was, whatever happens in between."""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from pyegress import options
from pyegress.errors import OutputError, UsageError
from pyegress.losses import Losses
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.outputs.loki import Loki, LokiOptions
from pyegress.plugin import Context
from pyegress.record import Connection, Process
from tests.island import FAR_4, LOCAL_4, Island, fields, island
from tests.logserver import LogServer, free_port, log_server, program_or_skip, wait_until
from tests.lokistub import HANG, Reply, stub, values_in

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60
NOBODY = 3109
"""A port that nobody listens on in a namespace of the test's."""
BASE = time.time_ns() // 1_000_000_000 * 1_000_000_000 + 123_456_789
CURL = Process(
    pid=300, name="curl", user="ubuntu", uid=1000, exe="/usr/bin/curl", parent=Process(name="bash")
)
HOSTILE = Process(pid=301, name='a"b\\c\n\x1b[31m\u202e\udcff', cmdline="x=y {z} \u2028", unit="é.service")

FEED = """
import sys, time
sys.path.insert(0, {root!r})
from threading import Event
from pyegress import cli, registry
from pyegress.plugin import Input, Options
from tests.outputs.test_loki import connections

class FeedOptions(Options, frozen=True, kw_only=True):
    quiet: bool = False

class Feed(Input):
    name, summary, Options = "ebpf", "gives so many", FeedOptions
    def __init__(self, options): self.stopped = Event()
    def open(self, context): pass
    def close(self): pass
    def stop(self): self.stopped.set()
    def read(self):
        yield connections({first}, {count})
        self.stopped.wait()

registry.INPUTS["ebpf"] = "__main__:Feed"
cli.main()
"""


def connections(first: int, count: int) -> list[Connection]:
    """Connections that are told apart by `src_port`, one of ten by a hostile process."""
    return [
        Connection(
            ts=BASE + number,
            hook="ebpf",
            protocol="tcp",
            ip_version=4,
            dest_ip="192.0.2.1",
            dest_port=443 if number % 2 else 53,
            src_port=number,
            process=HOSTILE if number % 10 == 0 else CURL,
        )
        for number in range(first, first + count)
    ]


def parsed(**given: str) -> LokiOptions:
    """Options by their keys, as the command line gives them."""
    pairs = [(key.replace("_", "-"), text) for key, text in given.items()]
    return options.parse("-O", "loki", LokiOptions, pairs)


class Rig:
    """An open output with what it counts and says."""

    def __init__(self, **given: str) -> None:
        self.losses = Losses()
        self.notices: list[str] = []
        self.output = Loki(parsed(**given))
        self.output.open(Context(self.losses, self.notices.append, lambda text: None))

    @property
    def lost(self) -> int:
        return self.losses.total("lost")


@contextmanager
def opened(url: str, **given: str) -> Iterator[Rig]:
    """A rig, closed with the block."""
    rig = Rig(url=url, **given)
    try:
        yield rig
    finally:
        rig.output.close()


def ports(rows: Sequence[dict[str, str]]) -> list[int]:
    """What tells connections apart."""
    return sorted(int(row["srcport"]) for row in rows)


@contextmanager
def feed(first: int, count: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`pyegress run -o loki` on an input of so many connections; killed with the block."""
    code = FEED.format(root=str(ROOT), first=first, count=count)
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", "-I", "ebpf:quiet:true", "-o", "loki", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def loki_options(**given: str) -> list[str]:
    """The same as `parsed` takes, as words of a command line."""
    pairs = [(key.replace("_", "-"), text) for key, text in given.items()]
    return [word for key, text in pairs for word in ("-O", f"loki:{key}:{text}")]


def ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Exit code and messages after a signal."""
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


def spooled(folder: Path) -> int:
    """Records in a spool."""
    return sum(int(path.name.split("-")[1].split(".")[0]) for path in folder.glob("*.gz"))


def test_everything_comes_back(tmp_path: Path) -> None:
    """Time to the ns, the logfmt line, stream labels and each field as metadata."""
    sent = connections(0, 1000)
    with log_server(tmp_path) as server:
        with opened(server.url, labels="env=prod,site=a b", batch_size="10K") as rig:
            rig.output.write(sent)
        rows = server.await_rows(1000)
    lines = Logfmt(LogfmtOptions()).lines(sent).splitlines()
    assert [row["_msg"] for row in rows] == lines
    for record, row in zip(sent, rows, strict=True):
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.ts // 1_000_000_000))
        assert row["_time"].rstrip("Z") == f"{clock}.{record.ts % 1_000_000_000:09}".rstrip("0")
    host = socket.gethostname()
    assert {row["_stream"] for row in rows} == {f'{{env="prod",host="{host}",job="pyegress",site="a b"}}'}
    told = {key: text for key, text in rows[1].items() if not key.startswith("_")}
    assert told == {
        "env": "prod",
        "site": "a b",
        "host": host,
        "job": "pyegress",
        "hook": "ebpf",
        "protocol": "tcp",
        "destip": "192.0.2.1",
        "destport": "443",
        "srcport": "1",
        "process": "curl",
        "pid": "300",
        "user": "ubuntu",
        "uid": "1000",
        "exe": "/usr/bin/curl",
        "parent": "bash",
    }
    assert rows[0]["process"] == 'a"b\\\\c\\n\\u001b[31m\\u202e\\udcff'
    assert rows[0]["cmdline"] == "x=y {z} \\u2028"
    assert rows[0]["unit"] == "é.service"
    assert rig.lost == 0
    assert rig.notices == []


def test_query_of_the_readme(tmp_path: Path) -> None:
    """With `stream-labels` a stream is selected by them, and rates are by process."""
    with log_server(tmp_path) as server:
        with opened(server.url, stream_labels="process,destport") as rig:
            rig.output.write(connections(0, 100))
        server.await_rows(100)
        rates = server.rates('_time:1d {destport="443"} | stats by (process) count() events')
        assert {rate["process"]: rate["value"] for rate in rates} == {"curl": "50"}
        assert len(server.rows('{process="curl",job="pyegress"}')) == 90
        (stream,) = {row["_stream"] for row in server.rows('{destport="443"}')}
    assert stream.startswith('{destport="443",host=')


def test_server_killed_in_between(tmp_path: Path) -> None:
    """What it had kept is not sent again, what it had not is: all is there once, without a spool."""
    with log_server(tmp_path) as server, opened(server.url, batch_wait="10ms") as rig:
        rig.output.write(connections(0, 500))
        server.await_on_disk(500)
        server.kill()
        for first in range(500, 1500, 100):
            rig.output.write(connections(first, 100))
        wait_until(lambda: any("cannot deliver: Connection refused" in text for text in rig.notices))
        server.start()
        assert ports(server.await_rows(1500)) == list(range(1500))
        rig.output.write(connections(1500, 10))
        assert ports(server.await_rows(1510)) == list(range(1510))
    assert rig.lost == 0
    assert rig.notices[1:] == ["loki: it takes batches again"]


def test_server_restarted_under_load(tmp_path: Path) -> None:
    """Whatever was in its hands at each stop: nothing is lost, and only what had no answer can be there twice."""
    with log_server(tmp_path) as server:
        with opened(server.url, batch_wait="1ms", batch_size="8K") as rig:
            for first in range(0, 9000, 100):
                rig.output.write(connections(first, 100))
                if first % 3000 == 1500:
                    server.stop()
                    server.start()
            wait_until(lambda: len(set(ports(server.rows()))) == 9000)
        twice = len(server.rows()) - 9000
    assert rig.lost == 0
    # A batch of 8 KiB is a dozen records, and one is on its way at a time.
    assert 0 <= twice <= 3 * 20


def test_both_restarted_with_a_spool(tmp_path: Path) -> None:
    """The server is away while one pyegress ends and another begins: all is there once."""
    spool = tmp_path / "spool"
    (tmp_path / "server").mkdir()
    with log_server(tmp_path / "server") as server:
        with opened(server.url, spool=str(spool)) as rig:
            rig.output.write(connections(0, 300))
            server.await_rows(300)
            server.await_on_disk(300)
            server.kill()
            rig.output.write(connections(300, 300))
        assert spooled(spool) == 300
        assert rig.notices[-1] == f"loki: 300 records wait in spool {spool} for the next run"
        assert rig.lost == 0
        with opened(server.url, spool=str(spool)) as rig:
            assert rig.notices == [f"loki: 300 records of an earlier run wait in spool {spool}"]
            rig.output.write(connections(600, 300))
            server.start()
            assert ports(server.await_rows(900)) == list(range(900))
        assert spooled(spool) == 0
        assert ports(server.rows()) == list(range(900))


def test_pyegress_killed_with_a_spool(tmp_path: Path) -> None:
    """kill -9 loses nothing that was in the spool, and the next run delivers it."""
    spool = tmp_path / "spool"
    (tmp_path / "server").mkdir()
    with log_server(tmp_path / "server") as server:
        server.kill()
        words = loki_options(url=server.url, spool=str(spool), batch_size="20K", batch_wait="10ms")
        with feed(0, 2000, *words) as process:
            wait_until(lambda: spool.exists() and spooled(spool) == 2000)
            ended(process, signal.SIGKILL)
        server.start()
        with feed(2000, 5, *words) as process:
            assert ports(server.await_rows(2005)) == list(range(2005))
            code, err = ended(process)
    assert code == 0
    assert "2000 records of an earlier run wait" in err
    assert spooled(spool) == 0


def test_torn_file_in_the_spool(tmp_path: Path) -> None:
    """It is named and counted, the others are delivered."""
    spool = tmp_path / "spool"
    with opened(f"http://localhost:{free_port()}", spool=str(spool), batch_size="4K") as rig:
        rig.output.write(connections(0, 100))
    last = max(spool.glob("*.gz"))
    records = int(last.name.split("-")[1].split(".")[0])
    last.write_bytes(last.read_bytes()[:-20])
    with stub() as server:
        with opened(server.url, spool=str(spool)) as rig:
            wait_until(lambda: spooled(spool) == 0)
        got = [value for _ in range(server.requests.qsize()) for value in values_in(server.next().body)]
    assert len(got) == 100 - records
    assert rig.losses.snapshot() == {
        ("lost", "output loki: files of the spool that could not be read"): records
    }
    assert rig.notices[1:] == [f"loki: {last.name} in spool {spool} is lost: torn"]


def test_tls_and_password(tmp_path: Path) -> None:
    """A server that asks for both, and its certificate is trusted by `ca-file` alone."""
    program_or_skip()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    (tmp_path / "pass").write_text("s3cret:é\n")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    server = LogServer(
        tmp_path,
        "-tls",
        f"-tlsCertFile={tmp_path}/cert.pem",
        f"-tlsKeyFile={tmp_path}/key.pem",
        "-httpAuth.username=me",
        "-httpAuth.password=s3cret:é",
        context=trusting,
    )
    ca_file, pass_file = str(tmp_path / "ca.pem"), str(tmp_path / "pass")
    with server:
        server.authenticate("Basic " + base64.b64encode("me:s3cret:é".encode()).decode())
        with opened(server.url, user="me", pass_file=pass_file, ca_file=ca_file) as rig:
            rig.output.write(connections(0, 10))
            server.await_rows(10)
        with_user = server.url.replace("https://", "https://me:s3cret%3A%C3%A9@")
        with opened(with_user, ca_file=ca_file) as rig:
            rig.output.write(connections(10, 10))
            server.await_rows(20)
        with opened(server.url, user="me", **{"pass": "wrong"}, ca_file=ca_file, flush_timeout="2s") as wrong:
            wrong.output.write(connections(20, 10))
        with opened(with_user, flush_timeout="2s") as untrusted:
            untrusted.output.write(connections(30, 10))
        assert ports(server.rows()) == list(range(20))
    assert rig.lost == 0
    assert wrong.lost == untrusted.lost == 10
    assert "it answered 401 Unauthorized" in wrong.notices[0]
    assert "its certificate is not trusted" in untrusted.notices[0]
    assert "s3cret" not in str(wrong.notices + untrusted.notices)


def test_password_file_is_read_again(tmp_path: Path) -> None:
    """At SIGHUP; where it can't be read the old password holds."""
    secret = tmp_path / "pass"
    with stub() as server:
        secret.write_text("old")
        with opened(server.url, user="me", pass_file=str(secret), batch_wait="1ms") as rig:
            used = []
            for change in (lambda: None, lambda: secret.write_text("new"), secret.unlink):
                change()
                with suppress(OutputError):
                    rig.output.reopen()
                rig.output.write(connections(0, 1))
                header = server.next().headers["Authorization"].removeprefix("Basic ")
                used.append(base64.b64decode(header).decode())
    assert used == ["me:old", "me:new", "me:new"]


def test_password_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a user without any is an error."""
    with pytest.raises(OutputError, match="user me has no password; give pass-file or PYEGRESS_LOKI_PASS"):
        Rig(url="http://localhost", user="me")
    monkeypatch.setenv("PYEGRESS_LOKI_PASS", "s3cret")
    with stub() as server:
        with opened(server.url, user="me", orgid="team-1") as rig:
            rig.output.write(connections(0, 1))
        request = server.next()
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert request.headers["X-Scope-OrgID"] == "team-1"


def test_batches_by_time() -> None:
    """A lone record is sent when it is old enough, without anything after it."""
    with stub() as server, opened(server.url, batch_wait="10ms") as rig:
        for number in range(3):
            rig.output.write(connections(number, 1))
            assert len(values_in(server.next().body)) == 1


def test_batches_by_size_over_one_connection() -> None:
    """However long the wait is; the connection is kept."""
    with stub() as server:
        with opened(server.url, batch_size="8K", batch_wait="1h") as rig:
            rig.output.write(connections(0, 1000))
            first = server.next()
        requests = [first, *(server.next() for _ in range(server.requests.qsize()))]
    assert len(requests) > 10
    assert len({request.client for request in requests}) == 1
    got = [int(value[2]["srcport"]) for request in requests for value in values_in(request.body)]
    assert got == list(range(1000))


def test_refused_batch() -> None:
    """Dropped, counted and said; the next one is sent."""
    with stub() as server:
        server.script(Reply(400, "entry too far behind"))
        with opened(server.url, batch_wait="1ms") as rig:
            rig.output.write(connections(0, 3))
            server.next()
            rig.output.write(connections(3, 2))
            assert len(values_in(server.next().body)) == 2
    assert rig.losses.snapshot() == {("lost", "output loki: refused by Loki"): 3}
    assert rig.notices == [
        "loki: a batch of 3 records is dropped: it answered 400 Bad Request: entry too far behind"
    ]


def test_overloaded_server() -> None:
    """429, 500 and half an answer: the same batch again until it is taken."""
    with stub() as server:
        server.script(Reply(429, "", {"Retry-After": "0"}), Reply(500), Reply(503, "wait", whole=False))
        with opened(server.url, batch_wait="1ms") as rig:
            rig.output.write(connections(0, 3))
            bodies = [server.next().body for _ in range(4)]
            rig.output.write(connections(3, 1))
            server.next()
    assert bodies.count(bodies[0]) == 4
    assert rig.lost == 0


def test_memory_is_bounded() -> None:
    """Everything is either delivered or counted as lost."""
    port = free_port()
    with opened(f"http://localhost:{port}", queue="64K", batch_size="16K", flush_timeout="0") as rig:
        for first in range(0, 60_000, 10_000):
            rig.output.write(connections(first, 10_000))
        assert rig.lost > 40_000
    in_memory = rig.losses.snapshot()["lost", "output loki: not delivered at exit"]
    assert 0 < in_memory < 20_000
    assert rig.lost == 60_000


def test_hanging_server_holds_up_nobody() -> None:
    """Another output gets all at once, and SIGTERM ends in bounded time with a count of what is lost."""
    with stub() as server:
        server.script(HANG)
        words = loki_options(url=server.url, batch_wait="1ms", flush_timeout="300ms")
        with feed(0, 50, "-o", "logfmt", *words) as process:
            server.next()
            assert process.stdout is not None
            assert len([process.stdout.readline() for _ in range(50)]) == 50
            code, err = ended(process)
    assert code == 0
    assert "loki: 50 records are lost at exit: no answer" in err
    assert "lost: 50 output loki: not delivered at exit" in err
    assert "Traceback" not in err


def test_hanging_server_with_a_spool(tmp_path: Path) -> None:
    """Nothing is lost by the same."""
    with stub() as server:
        server.script(HANG)
        words = loki_options(url=server.url, spool=f"{tmp_path}/s", flush_timeout="1ms")
        with feed(0, 50, *words) as process:
            server.next()
            code, err = ended(process)
    assert code == 0
    assert "lost" not in err
    assert f"loki: 50 records wait in spool {tmp_path}/s for the next run" in err
    assert spooled(tmp_path / "s") == 50


def test_second_signal_says_what_is_lost() -> None:
    """Whoever is in a hurry learns what had not been delivered."""
    with stub() as server:
        server.script(HANG)
        words = loki_options(url=server.url, batch_wait="1ms", timeout="1h", flush_timeout="1h")
        with feed(0, 50, *words) as process:
            server.next()
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            # Counted from the moment on at which the end waits for it, and so also on SIGUSR1.
            while "lost: 50 output loki" not in (line := process.stderr.readline()):
                assert line
                process.send_signal(signal.SIGUSR1)
            code, err = ended(process, signal.SIGINT)
    assert code == 1
    assert "lost: 50 output loki: not delivered at exit" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("how", ["ebpf", "nflog", "nfqueue", "pcap"])
def test_own_pushes_are_no_events(how: str) -> None:
    """On no input, also where nobody listens: such a connection is over before its process is looked for."""
    inputs: dict[str, tuple[str, ...]] = {
        "ebpf": (),
        "nflog": ("-I", "nflog:group:7"),
        "nfqueue": ("-I", "nfqueue:queue:7"),
        "pcap": ("-I", "pcap:device:any"),
    }
    rules = {"nflog": ("NFLOG", "--nflog-group", "7"), "nfqueue": ("NFQUEUE", "--queue-num", "7")}
    seen = ("-i", how, *inputs[how], "-I", f"{how}:allow-loopback:true", "-I", f"{how}:quiet:true")
    words = loki_options(url=f"http://127.0.0.1:{NOBODY}", batch_wait="1ms", flush_timeout="0")
    with island() as netns:
        if how in rules:
            netns.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--syn", "-j", *rules[how])
        audit_words = (*seen, "-o", "logfmt", "-o", "loki", *words)
        with netns.audit(*audit_words) as audit, netns.client("wanderer", "tcp", FAR_4, 443):
            assert audit.process.stderr is not None
            while "cannot deliver: Connection refused" not in (line := audit.process.stderr.readline()):
                assert line
            done = audit.stop()
    found = {(c["dest_ip"], c["dest_port"]) for c in fields(done.out)}
    assert (FAR_4, "443") in found
    assert ("127.0.0.1", str(NOBODY)) not in found


NAMESERVER = """
import socket, sys
import dns.message, dns.rrset
served = socket.socket(type=socket.SOCK_DGRAM)
served.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, where = served.recvfrom(4096)
    try:
        query = dns.message.from_wire(data)
    except dns.exception.DNSException:
        continue  # the wanderer's
    answer, question = dns.message.make_response(query), query.question[0]
    if question.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", "A", sys.argv[1]))
    served.sendto(answer.to_wire(), where)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("how", ["nflog", "pcap"])
def test_looking_up_its_name_is_no_event(how: str, tmp_path: Path) -> None:
    """Though a look-up is over at once, and comes again with each try; those of others are there."""
    inputs = {"nflog": "nflog:group:7", "pcap": "pcap:device:any"}
    (tmp_path / "resolv.conf").write_text(f"nameserver {LOCAL_4}\n")
    words = loki_options(url=f"http://loki.example:{NOBODY}", batch_wait="1ms", flush_timeout="0")
    netns = Island(kinds=("net", "mnt"))
    try:
        netns.run("mount", "--bind", tmp_path / "resolv.conf", "/etc/resolv.conf")
        netns.run("iptables", "-A", "OUTPUT", "-j", "NFLOG", "--nflog-group", "7")
        with subprocess.Popen(
            netns.inside(sys.executable, "-c", NAMESERVER, LOCAL_4), stdout=subprocess.PIPE, text=True
        ) as nameserver:
            assert nameserver.stdout is not None and nameserver.stdout.readline() == "ready\n"
            try:
                audited = ("-i", how, "-I", inputs[how], "-I", f"{how}:quiet:true", "-I", f"{how}:window:0")
                with netns.audit(*audited, "-o", "logfmt", "-o", "loki", *words) as audit:
                    assert audit.process.stderr is not None
                    with netns.client("wanderer", "tcp", FAR_4, 443, "udp", LOCAL_4, 53):
                        while "cannot deliver: Connection refused" not in (
                            line := audit.process.stderr.readline()
                        ):
                            assert line
                        done = audit.stop()
            finally:
                nameserver.kill()
    finally:
        netns.close()
    found = fields(done.out)
    assert [c["proc_name"] for c in found if c["dest_ip"] == FAR_4] == ["wanderer"]
    # Answers come from its port 53, and questions go there.
    assert [c.get("proc_name") for c in found if c["dest_port"] == "53"] == ["wanderer"]
    assert str(NOBODY) not in {c["dest_port"] for c in found}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "-O loki:url: missing; give loki:url:VALUE"),
        ({"url": ""}, "-O loki:url:***: must not be empty"),
        ({"url": "ftp://me:hush@l"}, "-O loki: url: must be http://HOST:PORT or https://HOST:PORT"),
        ({"labels": "a-b=x"}, "-O loki: labels: 'a-b' can't be a label"),
        ({"labels": "destport=x"}, "-O loki: labels: 'destport' is a field of every record"),
        ({"stream_labels": "dest_port"}, "no field 'dest_port' can be a label; did you mean 'destport'?"),
        ({"stream_labels": "srcport"}, "no field 'srcport' can be a label"),
        ({"user": "a:b", "pass": "hush"}, "-O loki: user: must not hold a colon"),
        ({"pass": "hush"}, "-O loki: pass: whose? give user too"),
        ({"user": "a", "pass": "hush", "pass_file": "x"}, "-O loki: pass: given more than once"),
        ({"url": "http://me:hush@l", "pass": "hush"}, "-O loki: pass: given more than once"),
        ({"url": "http://me:hush@l", "user": "x"}, "-O loki: user: the url has one too"),
        ({"orgid": "a\r\nX-Evil: b"}, "-O loki: orgid: must be printable ASCII"),
        ({"batch_size": "1"}, "-O loki:batch-size:1: must be 1K..64M"),
    ],
)
def test_wrong_options(given: dict[str, str], says: str) -> None:
    """Said at the start, in a line without passwords."""
    whole = given if not given or "url" in given else {"url": "http://localhost", **given}
    with pytest.raises(UsageError) as raised:
        parsed(**whole)
    assert says in str(raised.value)
    assert "hush" not in str(raised.value)
    assert str(raised.value).isprintable()


def test_close_twice_and_before_open() -> None:
    """Nothing happens, and nothing is written after it."""
    output = Loki(parsed(url="http://localhost"))
    output.close()
    with stub() as server, opened(server.url) as rig:
        rig.output.close()
        rig.output.close()
        with pytest.raises(OutputError, match="loki: not open"):
            rig.output.write(connections(0, 1))


def test_host_and_job_can_be_replaced() -> None:
    """By labels of the user's."""
    with stub() as server:
        with opened(server.url, labels="host=web1,job=audit") as rig:
            rig.output.write(connections(0, 1))
        (stream,) = server.next().body["streams"]
    assert stream["stream"] == {"host": "web1", "job": "audit"}


def test_spool_in_use(tmp_path: Path) -> None:
    """The second is told, and the first goes on."""
    with opened("http://localhost", spool=str(tmp_path / "s")), pytest.raises(OutputError) as raised:
        Rig(url="http://localhost", spool=str(tmp_path / "s"))
    assert "another pyegress uses it" in str(raised.value)

# SPDX-License-Identifier: MIT
"""`pyegress report` from the command line, and its page in a browser."""

from __future__ import annotations

import os
import pty
import re
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pyegress.losses import Losses
from pyegress.outputs.json import Json, JsonOptions
from pyegress.outputs.logfmt import Logfmt, LogfmtOptions
from pyegress.outputs.sqlite import Sqlite, SqliteOptions
from pyegress.plugin import Context, Output
from pyegress.record import Connection, Process
from tests.chromium import browse, dom, program_or_skip, screenshot
from tests.report.records import HOUR, NOW, connection

SCRIPT = "<script>document.title='x'</script>"
IMAGE = "\"><img src=http://127.0.0.1:{port}/got onerror=document.title='x'>"


def report(*words: str | Path, **options: object) -> tuple[int, bytes, str]:
    """Exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pyegress", "report", *map(str, words)],
        capture_output=True,
        check=False,
        timeout=120,
        **options,  # type: ignore[call-overload]
    )
    return done.returncode, done.stdout, done.stderr.decode()


def some() -> list[Connection]:
    """By a service, by an unknown process, and by programs with hostile names."""
    hostile = [
        Process(name=name, exe=name, user="bob", cmdline=f"{name} --token=abc") for name in (SCRIPT, IMAGE)
    ]
    return [
        *(connection(ts=NOW + at * HOUR, dest_port=port) for at, port in enumerate((443, 80, 443))),
        connection(
            ts=NOW + 5 * HOUR, dest_ip="2001:db8::1", ip_version=6, process=None, attribution="process gone"
        ),
        *(connection(process=process, dest_names=(process.name or "",)) for process in hostile),
    ]


@pytest.fixture(params=["json", "logfmt", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As the output of that name writes it."""
    path = tmp_path / f"log.{request.param}"
    output: Output
    if request.param == "json":
        output = Json(JsonOptions(file=str(path)))
    elif request.param == "logfmt":
        output = Logfmt(LogfmtOptions(file=str(path)))
    else:
        output = Sqlite(SqliteOptions(file=str(path)))
    losses = Losses()
    losses.add("lost", "ebpf: ring buffer full", 7)
    output.open(Context(losses, print, print))
    output.write(some())
    output.close()
    return path


def test_report_of_each_log(log: Path, tmp_path: Path) -> None:
    """The same page of each, but for losses, which only the store knows; a file has it whole and 0640."""
    page = tmp_path / "page.html"
    code, out, err = report(log, "-o", page)
    assert (code, out) == (0, b"")
    assert stat.S_IMODE(page.stat().st_mode) == 0o640
    text = page.read_text()
    for expected in (
        "nginx.service",
        "192.0.2.1:443/tcp",
        "[2001:db8::1]:443/tcp",
        "process gone",
        "--token=***",
    ):
        assert expected in text
    assert "abc" not in re.sub(r"sha256-\S+", "", text)
    is_store = log.suffix == ".sqlite"
    assert ("ebpf: ring buffer full" in text, "may be incomplete" in text) == (is_store, is_store)
    assert ("lost: 7 ebpf: ring buffer full" in err) is is_store


def test_damaged_lines(tmp_path: Path) -> None:
    """They are on the page, and said."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()) + "damaged\n")
    code, out, err = report(log)
    assert code == 0
    assert b"lines that are no record of pyegress" in out
    assert "unreadable: 1 " in err


def test_options(tmp_path: Path) -> None:
    """Fewer rows, and secrets where they are wanted."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions(redact=False)).lines(some()))
    _, out, _ = report(log, "--top", "1", "--no-redact", "-o", "-")
    assert b"and 3 more services" in out
    _, out, _ = report(log, "--no-redact")
    assert b"--token=abc" in out


def test_a_terminal_gets_no_page(tmp_path: Path) -> None:
    """It gets a hint, before anything is read; - insists."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()))
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "pyegress", "report", str(log)]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert done.stderr == (
        b"pyegress: report: a page of HTML is not for a terminal; name a file with -o, or redirect it\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "report: name a log"),
        (["log", "--top", "0"], 2, "--top 0: must be 1..100000"),
        (["log", "--top", "x"], 2, "--top x: "),
        (["log", "-o", "log"], 2, "-o log: that is a log to read; name another file"),
        (["log", "-o", "no/page.html"], 1, "no such directory"),
        (["gone"], 1, "gone"),
        (["page.txt"], 1, "not a log of pyegress"),
    ],
)
def test_refusals(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """One line, and nothing is written or lost."""
    lines = Logfmt(LogfmtOptions()).lines(some())
    (tmp_path / "log").write_text(lines)
    (tmp_path / "page.txt").write_text("hello\n")
    found, out, err = report(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert (found, out, err.count("\n")) == (code, b"", 1)
    assert said in err
    assert (tmp_path / "log").read_text() == lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "page.txt"]


def test_nothing_is_said_of_fonts(tmp_path: Path) -> None:
    """A service account has no folder for a cache of them, which is no user's concern."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()))
    code, _, err = report(log, env={**os.environ, "MPLCONFIGDIR": "/dev/null/x"})
    assert (code, err) == (0, "")


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra(missing: str, tmp_path: Path) -> None:
    """The way on is named."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module', name={missing!r})")
    environment = {**os.environ, "PYTHONPATH": str(hidden)}
    code, _, err = report(log, env=environment)
    assert (code, err) == (
        1,
        f"pyegress: report: needs {missing}, which is not here; pip install 'pyegress[report]'\n",
    )


def test_full_disk(tmp_path: Path) -> None:
    """Said, not shown as done."""
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()))
    code, _, err = report(log, "-o", "/dev/full")
    assert code == 1
    assert "ENOSPC" in err


class Server(ThreadingHTTPServer):
    """Serves one page, and remembers what else it was asked for."""

    def __init__(self, page: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.page = page
        self.asked: list[str] = []

    def __enter__(self) -> Server:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.page if self.path == "/" else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_in_a_browser(tmp_path: Path) -> None:
    """It is seen, in light and dark; hostile names are inert, and nothing is asked for but the page itself."""
    program_or_skip()
    from PIL import Image

    log, page = tmp_path / "log", tmp_path / "page.html"
    with Server(b"") as server:
        lines = Logfmt(LogfmtOptions()).lines(some()).replace("{port}", str(server.server_port))
        log.write_text(lines)
        assert report(log, "-o", page)[0] == 0
        server.page = page.read_bytes()
        text = dom(server.address, tmp_path)
        assert server.asked == ["/"]
    assert "<title>Outbound connections</title>" in text
    assert "document.title='x'" in text
    assert not re.search(r"<(script|img)", text)
    assert {"nginx.service", "192.0.2.1:443/tcp"} <= set(re.findall(r"<text[^>]*>([^<]*)", text))

    brightness = []
    for scheme, number in (("light", "1"), ("dark", "0")):
        picture = screenshot(page, tmp_path, f"--blink-settings=preferredColorScheme={number}")
        with Image.open(picture) as image:
            grey = image.convert("L").histogram()
            colours = image.convert("RGB").getcolors(1 << 24) or []
        assert len(colours) > 100, f"{scheme}: nothing but paper"
        assert max(grey) < 0.97 * sum(grey)
        brightness.append(grey.index(max(grey)))
    light, dark = brightness
    assert light > 200 > 50 > dark


def test_the_policy_holds(tmp_path: Path) -> None:
    """Even if an element got into the page it could do nothing: the same page with one put in by hand."""
    program_or_skip()
    log = tmp_path / "log"
    log.write_text(Logfmt(LogfmtOptions()).lines(some()))
    _, page, _ = report(log)
    attack = SCRIPT.encode() + b"<img src=/image><link rel=stylesheet href=/css><iframe src=/frame></iframe>"
    asked = []
    for policy in (b"Content-Security-Policy", b"X-Nothing"):
        with Server(
            page.replace(b"<body>", b"<body>" + attack).replace(b"Content-Security-Policy", policy)
        ) as server:
            text = browse(server.address, tmp_path, "--dump-dom", "--virtual-time-budget=2000")
            asked.append((set(server.asked) - {"/favicon.ico"}, "<title>x</title>" in text))
    assert asked == [({"/"}, False), ({"/", "/image", "/css", "/frame"}, True)]

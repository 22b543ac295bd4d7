# SPDX-License-Identifier: MIT
"""A real VictoriaLogs, which takes Loki's pushes: built from its Go module, started on loopback, asked over HTTP."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.guest import Unavailable, cache_dir

MODULE = Path(__file__).resolve().parent / "victorialogs"
PACKAGE = "github.com/VictoriaMetrics/VictoriaLogs"
PATIENCE_S = 60.0
LOG_LINES = 20


@functools.cache
def program() -> Path:
    """The program, built if the cache has none of this version; Unavailable where it can't be."""
    required = re.search(rf"{PACKAGE} (v\S+)", (MODULE / "go.mod").read_text())
    assert required is not None
    folder = cache_dir() / "victorialogs" / required[1]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "victoria-logs"
        if not built.exists():
            _build(folder / "part")
            (folder / "part").rename(built)
    return built


def _build(target: Path) -> None:
    if shutil.which("go") is None:
        raise Unavailable("VictoriaLogs is built with Go, which is not installed")
    done = subprocess.run(
        [
            "go",
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags=-s -w",
            "-o",
            target,
            f"{PACKAGE}/app/victoria-logs",
        ],
        cwd=MODULE,
        env=os.environ | {"CGO_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"VictoriaLogs can't be built: {done.stderr.strip()[-2000:]}")


def program_or_skip() -> Path:
    """The same for tests, which are skipped where it can't be built."""
    try:
        return program()
    except Unavailable as error:
        pytest.skip(str(error))


class LogServer:
    """Started and stopped as often as wanted, on one port and one folder."""

    def __init__(self, folder: Path, *flags: str, context: ssl.SSLContext | None = None) -> None:
        """`flags` are more of its own; `context` trusts its certificate where they make it speak TLS."""
        self.port = free_port()
        self._folder = folder
        self._flags = flags
        self._context = context
        self._origin = f"{'https' if context else 'http'}://localhost:{self.port}"
        self.url = f"{self._origin}/insert"
        """What `-O loki:url:` takes."""
        self._headers: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LogServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it takes requests."""
        log = self._folder / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    program(),
                    f"-storageDataPath={self._folder / 'data'}",
                    f"-httpListenAddr=127.0.0.1:{self.port}",
                    "-inmemoryDataFlushInterval=1s",
                    "-memory.allowedBytes=256MB",
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

        def is_up() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                tail = "\n".join(log.read_text().splitlines()[-LOG_LINES:])
                raise RuntimeError(f"VictoriaLogs exited with {self._process.returncode}:\n{tail}")
            try:
                return self._get("/insert/loki/ready") == b"ready"
            except urllib.error.HTTPError as answered:
                answered.close()
                return answered.code == 401
            except OSError:
                return False

        wait_until(is_up)

    def kill(self) -> None:
        """As kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """As an administrator does: it keeps all that it took."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(PATIENCE_S) == 0
            self._process = None

    def authenticate(self, header: str) -> None:
        """Ask with this Authorization."""
        self._headers = {"Authorization": header}

    def rows(self, query: str = "*") -> list[dict[str, str]]:
        """What a LogsQL query finds, by time."""
        self._get("/internal/force_flush")
        found = self._get("/select/logsql/query", query=query)
        rows: list[dict[str, str]] = [json.loads(line) for line in found.splitlines()]
        # Zeros at the end of a fraction are left out, and Z comes after all digits.
        return sorted(rows, key=lambda row: row["_time"].rstrip("Z"))

    def select(self, query: str) -> list[dict[str, str]]:
        """The same in the order and the number that the query asks for."""
        self._get("/internal/force_flush")
        return [json.loads(line) for line in self._get("/select/logsql/query", query=query).splitlines()]

    def streams(self, query: str) -> list[str]:
        """The streams that a query finds something in, as `{name="value",...}`."""
        self._get("/internal/force_flush")
        answer = json.loads(self._get("/select/logsql/streams", query=query))
        return [each["value"] for each in answer["values"]]

    def rates(self, query: str) -> list[dict[str, str]]:
        """Labels and value (as `value`) of each series of a stats query."""
        self._get("/internal/force_flush")
        answer = json.loads(self._get("/select/logsql/stats_query", query=query))
        assert answer["status"] == "success"
        return [{**series["metric"], "value": series["value"][1]} for series in answer["data"]["result"]]

    def await_rows(self, count: int) -> list[dict[str, str]]:
        """All rows, once there are that many, and the streams that they are found by."""
        wait_until(lambda: len(self.rows()) >= count and not self._pending_streams())
        return self.rows()

    def await_on_disk(self, count: int) -> None:
        """Wait until so many rows outlive it, and the streams that they are found by."""

        def on_disk() -> bool:
            streams = [
                part
                for parts in (self._folder / "data").glob("partitions/*/indexdb/parts.json")
                for part in json.loads(parts.read_text())
            ]
            return (
                self._metric(r'vl_storage_rows\{type="storage/(?:small|big)"\}') >= count
                and not self._pending_streams()
                and len(streams) == self._metric("vl_indexdb_parts")
            )

        wait_until(on_disk)

    def _pending_streams(self) -> int:
        return self._metric(r'vl_pending_rows\{type="indexdb"\}')

    def _metric(self, name: str) -> int:
        text = self._get("/metrics").decode()
        return sum(int(found) for found in re.findall(rf"^{name} ([0-9]+)", text, re.MULTILINE))

    def _get(self, path: str, **words: str) -> bytes:
        url = f"{self._origin}{path}?{urllib.parse.urlencode(words)}"
        request = urllib.request.Request(url, headers=self._headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=self._context) as answer:
            body: bytes = answer.read()
            return body


@contextlib.contextmanager
def log_server(folder: Path, *flags: str) -> Iterator[LogServer]:
    """One that runs, in a folder of its own; the test is skipped where it can't be built."""
    program_or_skip()
    with LogServer(folder, *flags) as server:
        yield server


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until(happened: Callable[[], bool]) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)

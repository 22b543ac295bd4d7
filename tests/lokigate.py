# SPDX-License-Identifier: MIT
"""Loki's query API, as it is documented, over what a real VictoriaLogs has stored: that has no such API of its own.

Only what a selector alone asks for, which means the same there and in LogQL.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.logserver import LogServer

MOST_ENTRIES = 5000
LONGEST_NS = 30 * 86_400 * 10**9 + 3600 * 10**9
"""Loki's defaults of max_entries_limit_per_query and max_query_length."""
_SELECTOR = re.compile(r'\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\}')
_STREAM_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Gate:
    """Where `--loki` finds what the server has."""

    def __init__(self, server: LogServer, most_entries: int = MOST_ENTRIES) -> None:
        self.server = server
        self.most_entries = most_entries
        self.asked: list[dict[str, str]] = []
        """The words of each question, in their order."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://localhost:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def start(self) -> None:
        """Take questions."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, path: str, words: dict[str, str]) -> tuple[int, str]:
        """Status and text, an error's being plain text as Loki's is."""
        self.asked.append(words)
        start, end = int(words["start"]), int(words["end"])
        if end - start > LONGEST_NS:
            return 400, "the query time range exceeds the limit (max_query_length 30d1h)"
        if path == "/loki/api/v1/series":
            return self._series(words["match[]"], start, end)
        if path == "/loki/api/v1/query_range":
            limit = int(words.get("limit", "100"))
            if limit > self.most_entries:
                return 400, f"limit > max_entries_limit_per_query ({limit} > {self.most_entries})"
            return self._range(words["query"], start, end, limit, words.get("direction") == "forward")
        return 404, "404 page not found"

    def _range(self, query: str, start: int, end: int, limit: int, forward: bool) -> tuple[int, str]:
        if not _SELECTOR.fullmatch(query):
            return 400, "parse error: only a selector is known here"
        order = "_time" if forward else "_time desc"
        found = self.server.select(f"_time:[{start}, {end}) {query} | sort by ({order}) limit {limit}")
        streams: dict[str, dict[str, Any]] = {}
        for row in found:
            # Loki shows structured metadata among the labels of streams.
            labels = {name: value for name, value in row.items() if not name.startswith("_")}
            key = json.dumps(labels, sort_keys=True)
            stream = streams.setdefault(key, {"stream": labels, "values": []})
            stream["values"].append([str(_ns(row["_time"])), row["_msg"]])
        data = {"resultType": "streams", "result": list(streams.values()), "stats": {}}
        return 200, json.dumps({"status": "success", "data": data})

    def _series(self, selector: str, start: int, end: int) -> tuple[int, str]:
        found = self.server.streams(f"_time:[{start}, {end}) {selector}")
        labels = [
            {name: json.loads(f'"{value}"') for name, value in _STREAM_LABEL.findall(text)} for text in found
        ]
        return 200, json.dumps({"status": "success", "data": labels})


def _ns(text: str) -> int:
    second, _, fraction = text.rstrip("Z").partition(".")
    since = datetime.fromisoformat(second + "+00:00") - _EPOCH
    return since // timedelta(seconds=1) * 10**9 + int(fraction.ljust(9, "0"))


@contextmanager
def gate(server: LogServer, most_entries: int = MOST_ENTRIES) -> Iterator[Gate]:
    """One that runs."""
    made = Gate(server, most_entries)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def _handler(owner: Gate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            words = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                status, text = owner.answer(url.path, words)
            except (OSError, urllib.error.URLError) as error:
                # As a gateway in front of a Loki that is away.
                status, text = 502, str(error)
            body = text.encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    return Handler

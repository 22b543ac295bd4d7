# SPDX-License-Identifier: MIT
"""A server that does what no real Loki can be made to do: each request gets the next answer of a script."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

PATIENCE_S = 30.0


class Reply(NamedTuple):
    """An answer; with `whole` false the connection ends in the middle of its body."""

    status: int
    text: str | bytes = ""
    headers: Mapping[str, str] = {}
    whole: bool = True


HANG = Reply(0)
"""No answer until the stub ends."""
HALF_HEAD = Reply(-1)
"""The connection ends within the head of the answer."""
FINE = Reply(204)


class Request(NamedTuple):
    """What came."""

    path: str
    headers: Mapping[str, str]
    body: Any
    client: int
    """Port of the connection it came over."""


class Stub:
    """`answers` are given in their order, after them `FINE`."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: SimpleQueue[Reply] = SimpleQueue()
        self.requests: SimpleQueue[Request] = SimpleQueue()
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def script(self, *answers: Reply) -> None:
        """Answer so from now on."""
        for answer in answers:
            self.answers.put(answer)

    def next(self) -> Request:
        """The next request, waited for."""
        return self.requests.get(timeout=PATIENCE_S)

    def start(self) -> None:
        """Take requests."""
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of who hangs."""
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def stub(context: ssl.SSLContext | None = None) -> Iterator[Stub]:
    """One that runs."""
    made = Stub(context)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def values_in(body: Any) -> list[list[Any]]:
    """All entries of a push, whatever their stream."""
    return [value for stream in body["streams"] for value in stream["values"]]


def _handler(owner: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._take(json.loads(gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_GET(self) -> None:
            self._take(None)

        def _take(self, body: Any) -> None:
            taken = Request(self.path, dict(self.headers), body, self.client_address[1])
            try:
                reply = owner.answers.get_nowait()
            except Empty:
                reply = FINE
            owner.requests.put(taken)
            if reply is HANG:
                owner.ended.wait()
                self.close_connection = True
            elif reply is HALF_HEAD:
                self.wfile.write(b"HTTP/1.1 2")
                self._cut()
            else:
                self._answer(reply)

        def _answer(self, reply: Reply) -> None:
            body = reply.text if isinstance(reply.text, bytes) else reply.text.encode()
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204 or not reply.whole:
                self.send_header("Content-Length", str(len(body) + (not reply.whole)))
            self.end_headers()
            self.wfile.write(body)
            if not reply.whole:
                self._cut()

        def _cut(self) -> None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    return Handler

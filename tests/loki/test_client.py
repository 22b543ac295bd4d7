# SPDX-License-Identifier: MIT
"""Answers are read whole or not at all; what failures are called is tested with the pushes."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyegress.errors import OutputError
from pyegress.loki.client import Client, Unanswered, text_of
from pyegress.loki.options import EndpointOptions
from pyegress.ownports import is_own
from tests.lokistub import Reply, Stub, stub


@contextmanager
def asking(*replies: Reply) -> Iterator[tuple[Client, Stub]]:
    """A client, and a server that answers so."""
    with stub() as server:
        server.script(*replies)
        client = Client(EndpointOptions(url=server.url + "/prefix", orgid="team"))
        try:
            yield client, server
        finally:
            client.close()


def test_path_and_headers() -> None:
    """Behind the path of the URL; who asks is said with each request, over one connection from a port of ours."""
    with asking(Reply(200, "a"), Reply(200, "b")) as (client, server):
        texts = [text_of(client.ask("GET", "/x?y=1", 20.0, headers={"Accept": "z"}), 9, 20.0) for _ in "ab"]
        requests = [server.next(), server.next()]
    assert texts == [b"a", b"b"]
    assert {request.path for request in requests} == {"/prefix/x?y=1"}
    assert requests[0].headers["X-Scope-OrgID"] == "team"
    assert requests[0].headers["Accept"] == "z"
    assert len({request.client for request in requests}) == 1
    assert is_own(requests[0].client)


def test_bounded_text() -> None:
    """Of an endless answer no more is read than was asked for."""
    with asking(Reply(200, "x" * 100_000)) as (client, _):
        assert len(text_of(client.ask("GET", "/", 20.0), 1000, 20.0)) == 1000


@pytest.mark.parametrize(
    "reply", [Reply(200, "half", whole=False), Reply(200, "no gzip", {"Content-Encoding": "gzip"})]
)
def test_part_of_a_text(reply: Reply) -> None:
    """It is none."""
    with asking(reply) as (client, _):
        response = client.ask("GET", "/", 20.0)
        with pytest.raises(Unanswered, match="its answer ends early"):
            text_of(response, 1000, 20.0)


def test_compressed_text() -> None:
    """Its bound is for what comes out of it: a bomb stays small."""
    bomb = gzip.compress(b"x" * 50_000_000)
    with asking(Reply(200, bomb, {"Content-Encoding": "gzip"})) as (client, _):
        assert text_of(client.ask("GET", "/", 20.0), 1000, 20.0) == b"x" * 1000


def test_user_without_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is sent."""
    monkeypatch.delenv("PYEGRESS_LOKI_PASS", raising=False)
    with pytest.raises(OutputError, match="user me has no password"):
        Client(EndpointOptions(url="http://localhost", user="me"))

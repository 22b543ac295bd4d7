# SPDX-License-Identifier: MIT
"""What answers mean: data, something to ask for less of, to ask again, or an end that says why."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from pyegress.errors import InputError
from pyegress.loki import query as module
from pyegress.loki.options import QueryOptions
from pyegress.loki.query import Entry, Query, TooMuch
from tests.logserver import free_port
from tests.lokistub import HALF_HEAD, HANG, Reply, Stub, stub

SECOND = 1_000_000_000
FOUND = {
    "status": "success",
    "data": {
        "resultType": "streams",
        "result": [
            {"stream": {"host": "b", "a": "1"}, "values": [["9", "nine"], ["10", "ten", {"x": {}}]]},
            {"stream": {"host": "c"}, "values": [["2", "two\n\u2028"]]},
        ],
        "stats": {"summary": {}},
    },
}
EMPTY = {"status": "success", "data": {"resultType": "streams", "result": []}}


class Rig:
    """A query to a stub, which waits little."""

    def __init__(self, server: Stub, **given: object) -> None:
        self.notices: list[str] = []
        options = QueryOptions(url=server.url, **given)  # type: ignore[arg-type]
        self.query = Query(options, self.notices.append, first_wait_s=0.001)

    def entries(self) -> list[Entry]:
        try:
            return self.query.entries('{job="a"}', 1, 20, 7)
        finally:
            self.query.close()


def test_entries() -> None:
    """By time, with the labels of their streams; the question as Loki documents it."""
    with stub() as server:
        server.script(Reply(200, json.dumps(FOUND)))
        rig = Rig(server)
        found = rig.entries()
        asked = urlsplit(server.next().path)
    assert found == [
        Entry(2, (("host", "c"),), "two\n\u2028"),
        Entry(9, (("a", "1"), ("host", "b")), "nine"),
        Entry(10, (("a", "1"), ("host", "b")), "ten"),
    ]
    assert asked.path == "/loki/api/v1/query_range"
    assert dict(parse_qsl(asked.query)) == {
        "query": '{job="a"}',
        "start": "1",
        "end": "20",
        "limit": "7",
        "direction": "forward",
    }
    assert rig.notices == []


def test_series() -> None:
    """The labels of streams."""
    with stub() as server:
        server.script(Reply(200, '{"status":"success","data":[{"host":"a"},{"host":"b"}]}'))
        rig = Rig(server)
        assert rig.query.series('{job="a"}', 1, 2) == [{"host": "a"}, {"host": "b"}]
        rig.query.close()
        asked = urlsplit(server.next().path)
    assert asked.path == "/loki/api/v1/series"
    assert dict(parse_qsl(asked.query))["match[]"] == '{job="a"}'


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(429, "too many", {"Retry-After": "0"}),
        Reply(500, "oh"),
        Reply(503),
        Reply(504),
        HALF_HEAD,
        Reply(200, json.dumps(FOUND)[:90], whole=False),
        Reply(200, json.dumps(FOUND)[:90]),
        Reply(200, ""),
    ],
)
def test_asked_again(trouble: Reply) -> None:
    """The same, until it is answered whole; said once, and when it is over."""
    with stub() as server:
        server.script(*[trouble] * 3, Reply(200, json.dumps(FOUND)))
        rig = Rig(server)
        found = rig.entries()
        assert len({server.next().path for _ in range(4)}) == 1
    assert len(found) == 3
    assert len(rig.notices) == 2
    assert rig.notices[0].endswith("; tried again")
    assert rig.notices[1] == "loki: it answers again"


def test_hanging_server() -> None:
    """It is asked anew after the timeout."""
    with stub() as server:
        server.script(HANG, Reply(200, json.dumps(EMPTY)))
        assert Rig(server, timeout=SECOND // 5).entries() == []


def test_given_up() -> None:
    """What is wrong, how often it was tried, and no wait that is known to be too long."""
    with stub() as server:
        server.script(Reply(429, "slow down", {"Retry-After": "3000"}))
        with pytest.raises(InputError) as raised:
            Rig(server, give_up=60 * SECOND).entries()
    text = f"Loki at {server.url}: it answered 429 Too Many Requests: slow down; tried 1 times, try later"
    assert str(raised.value) == text


def test_nobody_listens() -> None:
    """For as long as it was to be tried."""
    query = Query(
        QueryOptions(url=f"http://me:hush@127.0.0.1:{free_port()}", give_up=SECOND // 10),
        print,
        first_wait_s=0.01,
    )
    with pytest.raises(InputError, match="Connection refused; tried [0-9]+ times") as raised:
        query.entries('{job="a"}', 1, 2, 3)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(400, "parse\x1b error"), "400 Bad Request: parse\\u001b error; is --query right?"),
        (Reply(401), "401 Unauthorized; give --user and --pass-file"),
        (Reply(404), "404 Not Found; is that where Loki answers queries?"),
        (Reply(302, "", {"Location": "/login"}), "302 Found"),
        (Reply(200, "<html>"), "what answers there is not Loki"),
        (Reply(200, '{"status":"success"}'), "no answer of Loki's"),
        (
            Reply(200, json.dumps({"data": {"resultType": "matrix", "result": [{}]}})),
            "--query: gives numbers",
        ),
        (
            Reply(
                200,
                json.dumps(
                    {"data": {"resultType": "streams", "result": [{"stream": {}, "values": [["x", ""]]}]}}
                ),
            ),
            "no answer of Loki's",
        ),
    ],
)
def test_never_asked_again(reply: Reply, says: str) -> None:
    """It would be the same another time."""
    with stub() as server:
        server.script(reply)
        with pytest.raises(InputError) as raised:
            Rig(server).entries()
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(400, "limit > max_entries_limit_per_query (5000 > 100)"),
        Reply(400, "the query time range exceeds the limit"),
        Reply(500, "rpc error: received message larger than max (5 vs. 4)"),
        Reply(200, json.dumps(EMPTY) + " " * 100),
    ],
)
def test_too_much(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of it may be answered."""
    monkeypatch.setattr(module, "ANSWER_BYTES", 120)
    with stub() as server:
        server.script(reply)
        with pytest.raises(TooMuch):
            Rig(server).entries()

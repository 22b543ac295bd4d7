# SPDX-License-Identifier: MIT
"""What each answer of a server, and each failure to get one, means for a batch."""

from __future__ import annotations

import gzip
import socket
import ssl
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme

from pyegress.errors import OutputError
from pyegress.loki import client
from pyegress.loki.client import MOST_RETRY_AFTER_S, Client
from pyegress.loki.options import EndpointOptions
from pyegress.loki.transport import Answer, Transport, Verdict
from tests.logserver import free_port
from tests.lokistub import HALF_HEAD, HANG, Reply, stub

BODY = gzip.compress(b'{"streams":[]}')


def transport_to(url: str, **given: str) -> Transport:
    """One with these options."""
    return Transport(Client(EndpointOptions(url=url, **given)))


def push(*replies: Reply, timeout_s: float = 20.0) -> Answer:
    """What a stub's answer comes to."""
    with stub() as server:
        server.script(*replies)
        transport = transport_to(server.url)
        try:
            return transport.push(BODY, timeout_s)
        finally:
            transport.close()


def test_request() -> None:
    """The push path after the URL's own, JSON by gzip, and the headers that were asked for."""
    with stub() as server:
        transport = transport_to(server.url + "/prefix", orgid="t")
        assert transport.push(BODY, 20.0).verdict is Verdict.DELIVERED
        transport.close()
        request = server.next()
    assert request.path == "/prefix/loki/api/v1/push"
    assert request.body == {"streams": []}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["X-Scope-OrgID"] == "t"


def test_one_connection_is_kept() -> None:
    """Also after errors whose text is short."""
    with stub() as server:
        server.script(Reply(204), Reply(500, "oh"), Reply(429), Reply(200, "{}"))
        transport = transport_to(server.url)
        for _ in range(5):
            transport.push(BODY, 20.0)
        transport.close()
        assert len({server.next().client for _ in range(5)}) == 1


def test_endless_text_is_not_read() -> None:
    """The connection is given up instead; the next push has a new one."""
    with stub() as server:
        server.script(Reply(500, "x" * 1_000_000))
        transport = transport_to(server.url)
        answer = transport.push(BODY, 20.0)
        assert len(answer.reason) < 300
        assert transport.push(BODY, 20.0).verdict is Verdict.DELIVERED
        transport.close()


@pytest.mark.parametrize("status", [200, 204])
def test_delivered(status: int) -> None:
    """Each 2xx."""
    assert push(Reply(status)) == Answer(Verdict.DELIVERED)


def test_half_a_text_after_success_is_success() -> None:
    """The server has taken it: sending it again would make it twice."""
    assert push(Reply(200, "{", whole=False)).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refused(status: int) -> None:
    """The batch would be refused again; the server's words are shown, made harmless and cut."""
    answer = push(Reply(status, "no\x1b[31m\n" + "y" * 1000))
    assert answer.verdict is Verdict.REFUSED
    assert answer.reason.startswith(f"it answered {status} ")
    assert ": no\\u001b[31m\\nyyy" in answer.reason
    assert len(answer.reason) < 300


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_failed(status: int) -> None:
    """It says nothing about the batch, so that is kept."""
    answer = push(Reply(status, "", {"Location": "/elsewhere"}))
    assert answer.verdict is Verdict.FAILED
    assert answer.reason.startswith(f"it answered {status} ")
    assert answer.retry_after_s == 0.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0", 0.0), ("-5", 0.0), ("99999999999", MOST_RETRY_AFTER_S), ("soon", 0.0), ("", 0.0)],
)
def test_retry_after(text: str, seconds: float) -> None:
    """Seconds that the server asks for, within reason."""
    assert push(Reply(429, "", {"Retry-After": text})).retry_after_s == seconds


def test_retry_after_a_date() -> None:
    """HTTP's other form."""
    date = format_datetime(datetime.now(timezone.utc) + timedelta(minutes=10), usegmt=True)
    assert 300 < push(Reply(503, "", {"Retry-After": date})).retry_after_s <= 600


def test_hanging_server() -> None:
    """It is given up after the timeout."""
    assert push(HANG, timeout_s=0.2) == Answer(Verdict.FAILED, "no answer in 0.2 s")


def test_half_a_head() -> None:
    """Whether it was taken isn't known."""
    answer = push(HALF_HEAD)
    assert answer.verdict is Verdict.FAILED
    assert "0x" not in answer.reason


def test_nobody_listens() -> None:
    """The reason is the system's, without objects and addresses of them."""
    transport = transport_to(f"http://127.0.0.1:{free_port()}")
    assert transport.push(BODY, 20.0) == Answer(Verdict.FAILED, "Connection refused")


def test_no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's words."""

    def unknown(*words: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(client, "addresses", unknown)
    answer = transport_to("http://loki.invalid").push(BODY, 20.0)
    assert answer == Answer(Verdict.FAILED, "Name or service not known")


def test_impossible_host() -> None:
    """A name that can't even be asked for."""
    answer = transport_to(f"http://{'a' * 70}.invalid").push(BODY, 20.0)
    assert answer.verdict is Verdict.FAILED
    assert answer.reason.isprintable()


def test_no_http_at_all() -> None:
    """TLS asked of a server that speaks none."""
    with stub() as server:
        answer = transport_to(server.url.replace("http:", "https:")).push(BODY, 20.0)
    assert answer.verdict is Verdict.FAILED
    assert answer.reason.startswith("TLS failed: ")


def test_tls_with_ca_file(tmp_path: Path) -> None:
    """Trusted with the file, not without."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with stub(context) as server:
        transport = transport_to(server.url, ca_file=str(ca_file))
        assert transport.push(BODY, 20.0).verdict is Verdict.DELIVERED
        transport.close()
        answer = transport_to(server.url).push(BODY, 20.0)
        other_name = transport_to(server.url.replace("localhost", "127.0.0.1"), ca_file=str(ca_file))
        named = other_name.push(BODY, 20.0)
    assert answer.verdict is named.verdict is Verdict.FAILED
    assert answer.reason.startswith("its certificate is not trusted: ")
    assert named.reason.startswith("its certificate is not trusted: ")


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), ("x", "it holds no certificate")]
)
def test_bad_ca_file(tmp_path: Path, content: str | None, why: str) -> None:
    """Said before anything is sent."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OutputError, match=f"^loki: cannot use ca-file {path}: {why}$"):
        transport_to("https://localhost", ca_file=str(path))

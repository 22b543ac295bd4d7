# SPDX-License-Identifier: MIT
"""The page says what was gathered, in few bytes, and nothing in it can act."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from pyegress.losses import Losses
from pyegress.record import Connection, Process
from pyegress.report.model import Gathered
from pyegress.report.page import page
from tests.report.records import NOW, connection, gathered

HOSTILE = (
    "<script>document.title='x'</script>",
    "\"><img src=x onerror=document.title='x'>",
    "'><svg/onload=alert(1)>",
    "</style><style>*{display:none}",
    "</text></svg><script>1</script>",
    "javascript:alert(1)",
    "{{ 7*7 }}{% for %}",
    "$\\frac{a}{b}$ $",
    "]]><!--",
    "&lt;b&gt;",
    "a\0\x1b[2J\r\n\u202e\u2066\u200f\ufffe",
    b"\xff\xfe".decode(errors="surrogateescape"),
)


class Elements(HTMLParser):
    """Tags with their attributes, and text, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(known: Gathered, losses: Losses | None = None, most: int = 25) -> str:
    """The page."""
    return page(known, losses or Losses(), ["egress.log"], most, redact=True).decode()


def hostile(text: str) -> list[Connection]:
    """Everything that a log can say is this text."""
    process = Process(name=text, exe=text, cmdline=text, user=text)
    others = [Process(unit=text), Process(container_name=text), Process(user_unit=text, user=text)]
    return [
        *(connection(process=each, dest_names=(text,), hook=text) for each in (process, *others)),
        connection(process=None, attribution=text, dest_ip="fe80::1", ifname=text),
        connection(protocol=text, dest_ip=text),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text(text: str) -> None:
    """The elements and attributes of the page are those of a page with harmless names, whatever names are."""
    losses = Losses()
    losses.add(text, text)
    page_of = {word: made(gathered(hostile(word)), losses) for word in ("harmless", text)}
    tags, harmless_tags = (
        {(tag, name) for tag, attributes in Elements(page_of[word]).found for name in (None, *attributes)}
        for word in (text, "harmless")
    )
    assert tags <= harmless_tags
    assert not re.search(r"[\0\x1b\u202a-\u202e\u2066-\u2069\u200f\ufffe]", page_of[text])


def test_addresses_lead_only_into_the_page() -> None:
    """And those are not made of names."""
    links = [
        attributes[name]
        for _, attributes in Elements(made(gathered(hostile("x")))).found
        for name in attributes
        if name in ("href", "src", "action", "xlink:href")
    ]
    assert links
    assert all(re.fullmatch(r"#(service-\d+|losses)", link or "") for link in links)


def test_policy() -> None:
    """Nothing is loaded, no style but ours acts, and none is needed."""
    text = made(gathered(connection()))
    elements = Elements(text).found
    (policy,) = [each["content"] for tag, each in elements if tag == "meta" and "http-equiv" in each]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not [tag for tag, _ in elements if tag in ("script", "img", "iframe", "link", "object", "embed")]
    assert not [
        each for _, each in elements if "style" in each or any(name.startswith("on") for name in each)
    ]


def test_content() -> None:
    """What an administrator looks for."""
    losses = Losses()
    losses.add("lost", "ebpf: ring buffer full", 7)
    text = Elements(
        made(
            gathered(
                connection(dest_names=("www.example",)),
                connection(process=None, attribution="process gone", dest_ip="2001:db8::1", verdict="drop"),
            ),
            losses,
        )
    ).text
    for expected in (
        *("nginx.service", "192.0.2.1", "www.example", "2001:db8::1", "process gone", "(1 denied)"),
        *("ebpf: ring buffer full", "may be incomplete", "last new one", "192.0.2.1:443/tcp", "egress.log"),
    ):
        assert expected in text


def test_nothing_was_seen() -> None:
    """A page all the same."""
    text = made(gathered())
    assert "No outbound connection was observed." in text
    assert "<svg" not in text
    assert "may be incomplete" not in text


def test_without_times() -> None:
    """There is no curve, all else is there."""
    text = made(gathered(connection(ts=0)))
    assert "at a time that is not known" in text
    assert "Destinations over time" not in text
    assert "192.0.2.1:443/tcp" in text


def test_many_destinations() -> None:
    """50,000 of 500 services with long names are a page that opens at once, and says what it leaves out."""
    known = gathered(
        connection(
            ts=NOW + at * 10**9,
            dest_ip=f"198.18.{at >> 8}.{at & 255}",
            dest_port=at,
            dest_names=("n" * 250,),
            process=processes[at % 500],
        )
        for processes in [[Process(unit=f"{at}{'u' * 250}.service", cmdline="c" * 4096) for at in range(500)]]
        for at in range(50_000)
    )
    text = made(known)
    assert len(text) < 2_000_000
    assert "and 475 more services" in text
    assert "and 75 more destinations" in text
    assert "49,980 more destinations" in text

# SPDX-License-Identifier: MIT
"""Options: text to values, errors that name the pair, help."""

from __future__ import annotations

import enum
import ipaddress
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, field

from pyegress.errors import UsageError
from pyegress.options import (
    Cidr,
    DurationNs,
    Ports,
    SizeBytes,
    describe,
    duration,
    duration_text,
    parse,
    queues,
    size,
    size_text,
)
from pyegress.plugin import Options


class Colour(enum.Enum):
    """Some choice."""

    RED = "red"
    BLUE = "blue"


class Everything(Options, frozen=True, kw_only=True):
    """One option of each type."""

    quiet: Annotated[bool, Meta(description="say nothing")] = False
    group: Annotated[int, Meta(ge=0, le=65535)] = 0
    low: Annotated[int, Meta(gt=0)] = 1
    url: str | None = None
    label: Annotated[str, Meta(min_length=1, max_length=5, pattern="^[a-z]*$")] = "a"
    ignore_port: Annotated[tuple[Ports, ...], Meta(description="hide ports")] = ()
    ignore_cidr: tuple[Cidr, ...] = ()
    one_cidr: Cidr | None = None
    groups: list[Annotated[int, Meta(ge=1)]] = field(default_factory=list)
    attach: Literal["auto", "kprobe"] = "auto"
    colour: Colour = Colour.RED
    window: Annotated[DurationNs, Meta(le=60_000_000_000)] = 10_000_000_000
    ring: SizeBytes = 4 << 20
    password: Annotated[str, Meta(max_length=5, extra={"secret": True})] = field(name="pass", default="hush")


def read(key: str, *texts: str) -> Any:
    """The value of one option."""
    return getattr(parse("-I", "ebpf", Everything, [(key, text) for text in texts]), key.replace("-", "_"))


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("1", "t", "T", "TRUE", "true", "True")]
    + [(text, False) for text in ("0", "f", "F", "FALSE", "false", "False")],
)
def test_bool_as_go_spells_it(text: str, value: bool) -> None:
    """Each spelling of ParseBool works."""
    assert read("quiet", text) is value


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("group", "007", 7),
        ("group", "+7", 7),
        ("url", "http://h:3100", "http://h:3100"),
        ("attach", "kprobe", "kprobe"),
        ("colour", "blue", Colour.BLUE),
        ("one-cidr", "10.1.2.3/8", ipaddress.ip_network("10.0.0.0/8")),
        ("window", "1m", 60_000_000_000),
        ("ring", "256K", 262144),
    ],
)
def test_text_becomes_the_value(key: str, text: str, value: object) -> None:
    """Each scalar type is read from text."""
    assert read(key, text) == value


def test_repeatable_options_collect() -> None:
    """A list or tuple collects its values in order, in its own container."""
    assert read("ignore-port", "53", "8000-8100") == (Ports(53, 53), Ports(8000, 8100))
    assert read("groups", "2", "1") == [2, 1]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_cidr(text: str, network: str) -> None:
    """Host bits are masked, an address is its own network, a mapped prefix is IPv4."""
    assert read("ignore-cidr", text) == (ipaddress.ip_network(network),)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("quiet", "yes", "-I ebpf:quiet:yes: must be true or false"),
        ("group", "99999", "-I ebpf:group:99999: must be 0..65535"),
        ("group", "1e3", "-I ebpf:group:1e3: must be a whole number"),
        ("group", "1_0", "-I ebpf:group:1_0: must be a whole number"),
        ("group", "٣", "-I ebpf:group:٣: must be a whole number"),
        ("group", "9" * 5000, "must be a whole number"),
        ("low", "0", "-I ebpf:low:0: must be at least 1"),
        ("groups", "0", "-I ebpf:groups:0: must be at least 1"),
        ("label", "", "-I ebpf:label:: must not be empty"),
        ("label", "abcdef", "must have at most 5 characters"),
        ("label", "A", "must match ^[a-z]*$"),
        ("attach", "kprob", "must be one of auto, kprobe; did you mean 'kprobe'?"),
        ("window", "10", "must be a duration with a unit"),
        ("window", "-1s", "must be a duration with a unit"),
        ("window", "2m", "-I ebpf:window:2m: must be at most 1m"),
        ("ring", "4X", "must be a number of bytes"),
        ("ignore-port", "0", "-I ebpf:ignore-port:0: must be 1..65535"),
        ("ignore-port", "65536", "-I ebpf:ignore-port:65536: must be 1..65535"),
        ("ignore-port", "-1", "must be a port, 1..65535"),
        ("ignore-port", "http", "must be a port, 1..65535"),
        ("ignore-port", "9-8", "must not end before it starts"),
        ("ignore-cidr", "10.0.0.0/33", "must be an address or network"),
        ("ignore-cidr", "10.0.0.0/0.0.0.255", "must be an address or network"),
        ("ignore-cidr", "fe80::1%eth0", "must be an address or network"),
        ("group", "\x1b[31m", "-I ebpf:group:\\u001b[31m: must be"),
        ("ignore-prot", "1", "-I ebpf:ignore-prot: no such option; did you mean 'ignore-port'?"),
        ("pass", "too long", "-I ebpf:pass:***: must have at most 5 characters"),
    ],
)
def test_what_is_wrong_is_named(key: str, text: str, message: str) -> None:
    """An error shows flag, plugin, key, the text as typed (escaped, secrets hidden) and what is right."""
    with pytest.raises(UsageError) as caught:
        read(key, text)
    assert message in str(caught.value)
    assert "$" not in str(caught.value).replace("]*$", "")


def test_given_twice_is_an_error() -> None:
    """Only a repeatable option may be given again."""
    with pytest.raises(UsageError, match="^-I ebpf:group: given twice$"):
        read("group", "1", "1")


def test_required_option() -> None:
    """An option without a default must be given."""

    class Needy(Options, frozen=True, kw_only=True):
        url: str

    with pytest.raises(UsageError, match="^-O loki:url: missing; give loki:url:VALUE$"):
        parse("-O", "loki", Needy, [])
    assert describe(Needy)[0].default_text == "required"


def test_a_plugins_own_check_is_a_usage_error() -> None:
    """ValueError of a __post_init__ names the plugin."""

    class Picky(Options, frozen=True, kw_only=True):
        def __post_init__(self) -> None:
            raise ValueError("a and b exclude each other")

    with pytest.raises(UsageError, match="^-I x: a and b exclude each other$"):
        parse("-I", "x", Picky, [])


@pytest.mark.parametrize("text", ["0", "10s", "1m30s", "1h30m", "500ms", "1h1ns"])
def test_duration_text_round_trips(text: str) -> None:
    """What is shown can be typed."""
    assert duration_text(duration(text)) == text


def test_duration_is_exact() -> None:
    """Go's forms, without floating point."""
    assert duration("1.5h") == 5_400_000_000_000
    assert duration("0.1s") == 100_000_000
    assert duration("90s") == duration("1m30s")


@pytest.mark.parametrize("text", ["0", "4M", "256K", "1000", "1G"])
def test_size_text_round_trips(text: str) -> None:
    """What is shown can be typed."""
    assert size_text(size(text)) == text


def test_describe() -> None:
    """Help names type with bounds, default as typed, description; a secret is not shown."""
    described = {option.key: option for option in describe(Everything)}
    assert described["quiet"].help == "say nothing"
    assert (described["group"].type_text, described["group"].default_text) == ("int 0..65535", "0")
    assert described["ignore-port"].type_text == "port or range, repeatable"
    assert described["ignore-port"].help == "hide ports"
    assert described["ignore-port"].default_text == "none"
    assert described["attach"].type_text == "auto|kprobe"
    assert described["colour"].default_text == "red"
    assert (described["window"].type_text, described["window"].default_text) == ("duration at most 1m", "10s")
    assert described["ring"].default_text == "4M"
    assert described["pass"].default_text == "***"


@pytest.mark.parametrize(("text", "shown"), [("0", "0"), ("65535", "65535"), ("0-3", "0-3"), ("7-7", "7")])
def test_queues(text: str, shown: str) -> None:
    """A queue or a range of queues, from 0 on."""
    assert str(queues(text)) == shown


@pytest.mark.parametrize("text", ["", "-1", "3-0", "65536", "0-65536", "0,1", "a"])
def test_no_queues(text: str) -> None:
    """What is none is refused."""
    with pytest.raises(ValueError, match="must"):
        queues(text)

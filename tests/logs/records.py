# SPDX-License-Identifier: MIT
"""Connections of all kinds, with the text that processes might choose."""

from __future__ import annotations

import ipaddress

import msgspec
from hypothesis import strategies as st

from pyegress.record import Connection, Process

LAST_NS = 253_402_300_799_999_999_999


def https(**given: object) -> Connection:
    """One to 192.0.2.1, unless something else is given; process and time are the caller's."""
    fields: dict[str, object] = {
        "hook": "ebpf",
        "protocol": "tcp",
        "ip_version": 4,
        "dest_ip": "192.0.2.1",
        "dest_port": 443,
        "attribution": "kernel",
    }
    return Connection(**(fields | given))  # type: ignore[arg-type]


hostile = st.sampled_from(
    [
        "",
        " src_port=1 ",
        'x" src_port=7 count=2 ',
        " attribution=kernel",
        " dest_names=a verdict=accept",
        " dest_names_missing=no-answer",
        " ip_version=4 ",
        "a\nts=2023-11-14T22:13:20.000000000Z hook=forged",
        '"},{"',
        "\\udcff",
        "\udcff\udc80",
        "\\",
        'a\\"',
        "\U000e0001\U0001f600",
        "\x1b[31m\x9b\u2028\ufeff",
    ]
)
texts = st.one_of(
    hostile,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.binary(max_size=12).map(lambda data: data.decode(errors="surrogateescape")),
    st.lists(hostile, max_size=3).map("".join),
)
"""What `str` decoded with surrogateescape can be."""
numbers = st.integers(0, (1 << 64) - 1)
ports = st.integers(0, 65535)
flags = st.booleans()


def maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


_OF_TYPE = {"int | None": maybe(numbers), "str | None": maybe(texts), "bool": flags, "str": texts}
_OWN = {name: _OF_TYPE[text] for name, text in Process.__annotations__.items() if text != "Process | None"}
lone_processes = st.builds(Process, **_OWN)


def _family(generations: list[Process]) -> Process | None:
    process = None
    for one in generations:
        process = msgspec.structs.replace(one, parent=process)
    return process


processes = st.lists(lone_processes, max_size=5).map(_family)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def _connection(address: ipaddress.IPv4Address | ipaddress.IPv6Address, **fields: object) -> Connection:
    return Connection(dest_ip=str(address), ip_version=address.version, **fields)  # type: ignore[arg-type]


connections = st.builds(
    _connection,
    addresses,
    ts=st.integers(0, LAST_NS),
    hook=texts.filter(bool),
    protocol=st.sampled_from(["tcp", "udp", "1"]) | texts.filter(bool),
    dest_port=maybe(ports),
    src_ip=maybe(texts),
    src_port=maybe(ports),
    count=st.integers(1, (1 << 63) - 1) | st.just(1),
    result=maybe(texts),
    direction=texts,
    netns=maybe(numbers),
    ifname=maybe(texts),
    process=processes,
    tid=maybe(numbers),
    thread=maybe(texts),
    attribution=maybe(texts),
    kernel_socket=flags,
    socket_uid=maybe(numbers),
    dest_names=st.lists(texts, max_size=3).map(tuple),
    dest_name_sources=st.lists(st.sampled_from(("dns", "hosts", "ptr")), max_size=3).map(tuple),
    dest_name_ages=st.lists(numbers, max_size=3).map(tuple),
    dest_names_missing=maybe(st.sampled_from(("no-answer", "dot-or-doh")) | texts),
    verdict=maybe(texts),
)

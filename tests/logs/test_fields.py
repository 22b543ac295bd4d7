# SPDX-License-Identifier: MIT
"""Keys of logfmt and the record's fields."""

from __future__ import annotations

import pytest

from pyegress.logs.fields import KNOWN, number, process_of, target_of
from pyegress.record import Process
from tests.outputs.test_logfmt import RICH, connection, lines, parse

TARGET = {"hook": "ebpf", "protocol": "tcp", "dest_ip": "::1", "ip_version": "6"}
NOT_READ = {"ancestors"}


def test_every_key_that_is_written_is_known() -> None:
    (line,) = lines(
        connection(
            process=RICH,
            src_ip="::1",
            src_port=1,
            protocol="udp",
            result="EACCES",
            direction="in",
            netns=1,
            ifname="lo",
            thread="t",
            attribution="proc",
            kernel_socket=True,
            socket_uid=0,
            dest_names=("a",),
            dest_names_missing="no-answer",
            verdict="drop",
        )
    )
    assert parse(line).keys() - KNOWN == NOT_READ


def test_each_relative_stands_for_itself() -> None:
    assert process_of({}) is None
    assert process_of({"unit": "a.service"}) == Process(unit="a.service")
    assert process_of({"grandparent_pid": "1", "attribution": "proc"}) == Process(
        attribution="proc",
        parent=Process(attribution="proc", parent=Process(pid=1, attribution="proc")),
    )


def test_target() -> None:
    assert target_of(TARGET) == {**TARGET, "ip_version": 6, "dest_port": None}
    for key in TARGET:
        with pytest.raises(ValueError):
            target_of({name: text for name, text in TARGET.items() if name != key})


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "²", "٣", "1.0", "0x1", "18446744073709551616", "9" * 5000]
)
def test_no_number(text: str) -> None:
    with pytest.raises(ValueError):
        number(text)


def test_number() -> None:
    assert number("18446744073709551615") == (1 << 64) - 1

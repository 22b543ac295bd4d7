# SPDX-License-Identifier: MIT
"""The record: what is not known is absent, and nobody changes what every output shares."""

import msgspec
import pytest

from pyegress.record import Connection, Process

CONNECTION = Connection(
    ts=1,
    hook="ebpf",
    protocol="tcp",
    ip_version=4,
    dest_ip="192.0.2.1",
    dest_port=443,
    process=Process(pid=7),
)


def test_unknown_fields_of_a_process_are_none() -> None:
    """A process of which only the number is known has no false zero or empty text."""
    fields = msgspec.structs.asdict(Process(pid=7))
    assert fields.pop("pid") == 7
    assert [fields.pop(name) for name in ("kernel", "cmdline_cut", "attribution")] == [False, False, "kernel"]
    assert set(fields.values()) == {None}


def test_unknown_fields_of_a_connection_are_none() -> None:
    """What an input does not say is absent; a record stands for one outbound event."""
    fields = msgspec.structs.asdict(Connection(1, "ebpf", "tcp", 4, "192.0.2.1", 443))
    assert [
        fields.pop(name) for name in ("ts", "hook", "protocol", "ip_version", "dest_ip", "dest_port")
    ] == [*(1, "ebpf", "tcp", 4, "192.0.2.1", 443)]
    assert [fields.pop(name) for name in ("count", "direction")] == [1, "out"]
    assert {fields.pop(name) for name in ("dest_names", "dest_name_sources", "dest_name_ages")} == {()}
    assert fields.pop("kernel_socket") is False
    assert set(fields.values()) == {None}


@pytest.mark.parametrize("field", ["dest_ip", "process"])
def test_connection_is_frozen(field: str) -> None:
    """Outputs share one object, so none of them can change it."""
    with pytest.raises(AttributeError):
        setattr(CONNECTION, field, None)


def test_process_is_frozen() -> None:
    """Connections share their process, and processes their parent."""
    with pytest.raises(AttributeError):
        setattr(CONNECTION.process, "name", "other")  # noqa: B010

# SPDX-License-Identifier: MIT
"""Names are asked for as programs do; what no rule should allow is left out, and a failure is that name's alone."""

from __future__ import annotations

import socket

import pytest

from pyegress.names import lookup
from pyegress.names.lookup import LookupFailedError, look_up, look_up_all
from tests.names.resolving import needs_resolver
from tests.netns import own_netns


def test_hosts() -> None:
    """What /etc/hosts has, without a dot behind it."""
    assert "127.0.0.1" in map(str, look_up("localhost"))


@needs_resolver
def test_failures() -> None:
    """Each is told with its cause, beside names that have addresses."""
    with own_netns():
        found = look_up_all(["localhost", "none.example", "localhost", "$(id)"])
    assert list(found) == ["localhost", "none.example", "$(id)"]
    assert isinstance(found["localhost"], list)
    assert isinstance(found["none.example"], LookupFailedError)
    assert str(found["$(id)"]) == "no plain name of a host"


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (["2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.1"], ["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        (["::ffff:192.0.2.1", "224.0.0.251", "ff02::fb", "0.0.0.0", "fe80::1%eth0"], ["192.0.2.1"]),
        ([f"10.0.{at // 250}.{at % 250 + 1}" for at in range(1000)], None),
    ],
)
def test_what_is_kept(told: list[str], kept: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of hosts, and no more than a name can sensibly have. What a resolver says is made up."""

    def answer(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert name == "a.example."
        return [(0, 0, 0, "", (address, 0)) for address in told]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    found = [str(each) for each in look_up("a.example")]
    assert found == kept if kept else len(found) == lookup.MOST


def test_nothing_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a failure."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("224.0.0.1", 0))])
    with pytest.raises(LookupFailedError, match="^no address of a host$"):
        look_up("a.example")

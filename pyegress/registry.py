# SPDX-License-Identifier: MIT
"""The plugins by name: ours in the order they are listed, other people's through entry points."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import msgspec

from pyegress.errors import EgressError, UsageError, nearest
from pyegress.escape import display
from pyegress.plugin import Input, Output

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Plugin = TypeVar("Plugin", Input, Output)

INPUTS = {
    "ebpf": "pyegress.inputs.ebpf:Ebpf",
    "nflog": "pyegress.inputs.nflog:Nflog",
    "nfqueue": "pyegress.inputs.nfqueue:Nfqueue",
    "pcap": "pyegress.inputs.pcap:Pcap",
    "log": "pyegress.inputs.log:Log",
}
OUTPUTS = {
    "text": "pyegress.outputs.text:Text",
    "table": "pyegress.outputs.table:Table",
    "logfmt": "pyegress.outputs.logfmt:Logfmt",
    "json": "pyegress.outputs.json:Json",
    "sqlite": "pyegress.outputs.sqlite:Sqlite",
    "journal": "pyegress.outputs.journal:Journal",
    "prometheus": "pyegress.outputs.prometheus:Prometheus",
    "iptables": "pyegress.outputs.iptables:Iptables",
    "nftables": "pyegress.outputs.nftables:Nftables",
    "loki": "pyegress.outputs.loki:Loki",
}

# mypy can't tell a base that is only compared with from one that is instantiated.
_INPUT: type[Input] = Input  # type: ignore[type-abstract]
_OUTPUT: type[Output] = Output  # type: ignore[type-abstract]


class Broken(msgspec.Struct, frozen=True):
    """A plugin that is there by name and can't be loaded."""

    name: str
    reason: str


def input_named(name: str) -> type[Input]:
    """The input of that name; UsageError names the nearest."""
    return _named("input", INPUTS, _INPUT, name)


def output_named(name: str) -> type[Output]:
    """The output of that name; UsageError names the nearest."""
    return _named("output", OUTPUTS, _OUTPUT, name)


def all_inputs() -> list[type[Input] | Broken]:
    """Every input, sorted by name."""
    return _all("input", INPUTS, _INPUT)


def all_outputs() -> list[type[Output] | Broken]:
    """Every output, sorted by name."""
    return _all("output", OUTPUTS, _OUTPUT)


def _named(kind: str, ours: dict[str, str], base: type[Plugin], name: str) -> type[Plugin]:
    place: str | EntryPoint | None = ours.get(name)
    if place is None:
        theirs: dict[str, EntryPoint] = _entry_points(kind)
        place = theirs.get(name)
        if place is None:
            known = nearest(name, sorted({*ours, *theirs}))
            raise UsageError(f"no such {kind} '{display(name)}'; {known}")
    found = _load(base, name, place)
    if isinstance(found, Broken):
        raise EgressError(f"{kind} '{display(name)}': {found.reason}")
    return found


def _all(kind: str, ours: dict[str, str], base: type[Plugin]) -> list[type[Plugin] | Broken]:
    places: dict[str, str | EntryPoint] = {**_entry_points(kind), **ours}
    return [_load(base, name, places[name]) for name in sorted(places)]


def _entry_points(kind: str) -> dict[str, EntryPoint]:
    # Here, because it is a tenth of the start time and our own plugins need none of it.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"pyegress.{kind}s")}


def _load(base: type[Plugin], name: str, place: str | EntryPoint) -> type[Plugin] | Broken:
    try:
        if isinstance(place, str):
            module, _, attribute = place.partition(":")
            found = getattr(import_module(module), attribute)
        else:
            found = place.load()
    except Exception as error:  # other people's code may raise anything while it is imported
        return Broken(name, f"can't be loaded: {type(error).__name__}: {display(str(error))}")
    if not (isinstance(found, type) and issubclass(found, base)):
        return Broken(name, f"can't be loaded: not a subclass of {base.__module__}.{base.__name__}")
    return found

# SPDX-License-Identifier: MIT
"""Which connections may go: by process, by destination, or by both; what no rule allows gets the default.

Only what is certain allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple, TypeVar

from msgspec import Meta

from pyegress import options, policyfile
from pyegress.destinations import PROTOCOL_NUMBERS
from pyegress.errors import UsageError
from pyegress.escape import display
from pyegress.filters import FilterOptions
from pyegress.losses import Losses
from pyegress.namefilters import matcher
from pyegress.options import Cidr, Ports
from pyegress.patterns import KINDS, Test, read
from pyegress.policyfile import Default, Group
from pyegress.prefixes import in_networks
from pyegress.record import Process

CACHED_PROCESSES = 16384
_OPTION_KINDS = ("comm", "exe", "cmdline", "parent", "user", "unit")
_PAST = {"accept": "accepted", "drop": "dropped", "reject": "rejected"}
_Value = TypeVar("_Value")


class PolicyOptions(FilterOptions, frozen=True, kw_only=True):
    """What an input that gives verdicts lets through; its own options inherit them."""

    allow_comm: Annotated[
        tuple[str, ...], Meta(description="let processes with this name through (exact or glob)")
    ] = ()
    allow_exe: Annotated[
        tuple[str, ...],
        Meta(
            description="let processes through whose program file has this whole path, or matches this glob"
        ),
    ] = ()
    allow_cmdline: Annotated[
        tuple[str, ...],
        Meta(
            description="let processes through whose command line has this text, or matches this glob as a whole"
        ),
    ] = ()
    allow_parent: Annotated[
        tuple[str, ...], Meta(description="let processes through whose parent has this name (exact or glob)")
    ] = ()
    allow_user: Annotated[
        tuple[str, ...],
        Meta(description="let processes of this user through (exact name, number, or glob on the name)"),
    ] = ()
    allow_unit: Annotated[
        tuple[str, ...],
        Meta(
            description="let processes of this systemd unit through (exact or glob; a user's: user@1000.service/NAME)"
        ),
    ] = ()
    allow_cidr: Annotated[tuple[Cidr, ...], Meta(description="let connections to this network through")] = ()
    allow_port: Annotated[
        tuple[Ports, ...], Meta(description="let connections to this port or range through")
    ] = ()
    allow_name: Annotated[
        tuple[str, ...],
        Meta(
            description="let connections through to addresses that this name led to (*.example.com: one label, "
            "**.example.com: any; needs names:dns), and to whatever else is there; of a process that asked for "
            "names of an address itself only these count"
        ),
    ] = ()
    policy: Annotated[
        str, Meta(description="TOML file with [[allow]] tables, in which all keys must hold; and a default")
    ] = ""
    default: Annotated[
        Default | None, Meta(description="what others get; accept, if the policy file has none either")
    ] = None


Names = Callable[[], Sequence[str]]
"""Asked for the names of a connection's address only where a rule is for names."""


def nameless() -> Sequence[str]:
    """Where none are known."""
    return ()


class Decision(NamedTuple):
    """A verdict and the number of the rule that allowed; None for the default."""

    verdict: Default
    rule: int | None


class _Destination(NamedTuple):
    """What a rule says of a destination; empty parts say nothing."""

    protocols: frozenset[int]
    ports: Sequence[Ports]
    is_inside: Callable[[bytes], bool] | None
    names: Sequence[re.Pattern[str]]

    def holds(self, protocol: int, dest: bytes, dport: int | None, names: Names) -> bool:
        """Whether all parts hold."""
        return (
            (not self.protocols or protocol in self.protocols)
            and (
                not self.ports
                or (dport is not None and any(at.first <= dport <= at.last for at in self.ports))
            )
            and (self.is_inside is None or self.is_inside(dest))
            and (not self.names or any(each.fullmatch(name) for name in names() for each in self.names))
        )


class _Rule(NamedTuple):
    number: int
    process: Sequence[Sequence[Test]]
    """One test of each must hold."""
    destination: _Destination


class Policy:
    """Gives verdicts, and counts them by rule. For one thread.

    Raises UsageError for an option or a file that can't be. A rule without a process decides before the others.
    """

    def __init__(self, given: PolicyOptions) -> None:
        self._labels: list[str] = []
        self._by_destination: list[_Rule] = []
        self._by_process: list[_Rule] = []
        for kind in _OPTION_KINDS:
            for text in getattr(given, f"allow_{kind}"):
                pattern, test = read(f"allow-{kind}", kind, text)
                self._add(f"allow-{kind}:{display(pattern)}", [[test]], _destination())
        for network in given.allow_cidr:
            self._add(f"allow-cidr:{network}", [], _destination(networks=[network]))
        for ports in given.allow_port:
            self._add(f"allow-port:{ports}", [], _destination(ports=[ports]))
        for text in given.allow_name:
            self._add(f"allow-name:{display(text)}", [], _destination(names=[matcher("allow-name", text)]))
        default, groups = policyfile.read(given.policy) if given.policy else (None, [])
        for where, group in groups:
            self._add_group(where, group)
        if given.default and default and given.default != default:
            raise UsageError(
                f"default:{given.default}: {display(given.policy)} says {default}; remove one of the two"
            )
        self.default: Default = given.default or default or "accept"
        self.labels: tuple[str, ...] = tuple(self._labels)
        """By rule number."""
        self.hits: list[int] = [0] * len(self._labels)
        """By rule number, how many packets it let through."""
        self.defaulted = 0
        """How many packets got the default."""
        # By id, because hashing a Process hashes all its parents; the reference keeps the id taken.
        self._cached: dict[int, tuple[Process, list[_Rule]]] = {}

    @property
    def uses_names(self) -> bool:
        """Whether a rule is for names."""
        return any(rule.destination.names for rule in (*self._by_destination, *self._by_process))

    def judge(
        self,
        process: Process | None,
        protocol: int,
        dest: bytes,
        dport: int | None,
        names: Names = nameless,
    ) -> Decision:
        """The verdict on a connection to `dest` (16 bytes); what is not known of the process allows nothing."""
        return (
            self._allowed(self._by_destination, protocol, dest, dport, names)
            or (process and self._allowed(self._rules_of(process), protocol, dest, dport, names))
            or self.judge_unknown()
        )

    def judge_unknown(self) -> Decision:
        """The default, for what can't be judged."""
        self.defaulted += 1
        return Decision(self.default, None)

    def put_losses(self, losses: Losses, source: str) -> None:
        """Counts by rule and of the default, as one source's."""
        for label, hits in zip(self.labels, self.hits, strict=True):
            losses.put("matched", f"by {label}", hits, source)
        losses.put(_PAST[self.default], "by default", self.defaulted, source)

    def _allowed(
        self, rules: Iterable[_Rule], protocol: int, dest: bytes, dport: int | None, names: Names
    ) -> Decision | None:
        for rule in rules:
            if rule.destination.holds(protocol, dest, dport, names):
                self.hits[rule.number] += 1
                return Decision("accept", rule.number)
        return None

    def _rules_of(self, process: Process) -> list[_Rule]:
        """Those that hold for this process, whatever the destination."""
        known = self._cached.get(id(process))
        if known is not None:
            return known[1]
        rules = [
            rule
            for rule in self._by_process
            if all(any(test(process) for test in tests) for tests in rule.process)
        ]
        if len(self._cached) >= CACHED_PROCESSES:
            self._cached.clear()
        self._cached[id(process)] = (process, rules)
        return rules

    def _add(self, label: str, process: Sequence[Sequence[Test]], destination: _Destination) -> None:
        rule = _Rule(len(self._labels), process, destination)
        self._labels.append(label)
        (self._by_process if process else self._by_destination).append(rule)

    def _add_group(self, where: str, group: Group) -> None:
        process = [
            [read(f"{where}: {kind}", kind, pattern)[1] for pattern in getattr(group, kind)]
            for kind in KINDS
            if getattr(group, kind)
        ]
        ports = [_parsed(f"{where}: port", options.ports, str(port)) for port in group.port]
        networks = [_parsed(f"{where}: cidr", options.cidr, text) for text in group.cidr]
        names = [matcher(f"{where}: name", text) for text in group.name]
        self._add(where, process, _destination(group.protocol, ports, networks, names))


def _destination(
    protocols: Iterable[str] = (),
    ports: Sequence[Ports] = (),
    networks: Sequence[Cidr] = (),
    names: Sequence[re.Pattern[str]] = (),
) -> _Destination:
    return _Destination(
        frozenset(number for name in protocols for number in PROTOCOL_NUMBERS[name]),
        ports,
        in_networks(networks) if networks else None,
        names,
    )


def _parsed(where: str, parse: Callable[[str], _Value], text: str) -> _Value:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {display(text)}: {error}") from None

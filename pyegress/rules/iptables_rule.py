# SPDX-License-Identifier: MIT
"""One rule of iptables: what it matches and where it leads."""

from __future__ import annotations

import ipaddress
import pwd
import re
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from pyegress.rules.addresses import Family, Network
from pyegress.rules.firewall import EMPTY_SET, Entry, Range, Verdict
from pyegress.rules.ipset import Sets
from pyegress.rules.iptables_words import BadLineError

VERDICTS: dict[str, Verdict] = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject"}
_GOES_ON = (
    "AUDIT CHECKSUM CLASSIFY CONNMARK CONNSECMARK CT DSCP ECN HL HMARK IDLETIMER LED LOG MARK NFLOG NOTRACK RATEEST "
    "SECMARK SET TCPMSS TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG"
)
GOES_ON = frozenset(_GOES_ON.split())
"""Targets behind which the next rule is asked."""

_SHORT = {
    "-p": "--protocol",
    "-d": "--destination",
    "-s": "--source",
    "-o": "--out-interface",
    "-i": "--in-interface",
    "-m": "--match",
    "-j": "--jump",
    "-g": "--goto",
    "--proto": "--protocol",
    "--dst": "--destination",
    "--src": "--source",
    "--destination-port": "--dport",
    "--destination-ports": "--dports",
    "--source-port": "--sport",
    "--source-ports": "--sports",
    "--ctstate": "--state",
    "--icmpv6-type": "--icmp-type",
}
_KNOWN = "set tcp udp udplite sctp dccp multiport owner cgroup conntrack state icmp icmp6 icmpv6 comment limit standard"
_MODULES = frozenset(_KNOWN.split())
_PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "sctp": 132,
    "udplite": 136,
    "all": 0,
}
_NOT_FIRST = frozenset(("ESTABLISHED", "RELATED", "INVALID"))
_ICMP_TYPES = {
    "echo-reply": (0, 129),
    "echo-request": (8, 128),
    "router-advertisement": (9, 134),
    "router-solicitation": (10, 133),
    "neighbour-solicitation": (None, 135),
    "neighbor-solicitation": (None, 135),
    "neighbour-advertisement": (None, 136),
    "neighbor-advertisement": (None, 136),
}
_SYN = {"FIN", "SYN", "RST", "ACK"}
_LIMITS = ("--limit", "--limit-burst")


class Line(NamedTuple):
    """A rule; several entries where it names several destinations."""

    entries: tuple[Entry, ...]
    """Their verdict is where the target is none of the built-in ones a mere placeholder."""
    target: str | None
    """A verdict, a chain, or something that iptables' extensions do."""
    goto: bool


def rule_of(
    words: Sequence[str], family: Family, line: int, text: str, hits: int | None, sets: Sets | None = None
) -> Line:
    """What stands behind the chain's name; BadLineError where it can't be a rule.

    `sets`: of names' addresses; a match for any other isn't understood.
    """
    return _Reader(words, family, sets or {}).read(line, text, hits)


class _Reader:
    """Goes over the words once."""

    def __init__(self, words: Sequence[str], family: Family, sets: Sets) -> None:
        self._words = words
        self._sets = sets
        self._name_set: str | None = None
        self._at = 0
        self._family = family
        self._negated = False
        self._networks: list[Network | None] = [None]
        self._protocol: int | None = None
        self._ports: dict[str, tuple[Range, ...]] = {}
        self._uids: tuple[Range, ...] | None = None
        self._icmp_types: tuple[Range, ...] | None = None
        self._device: str | None = None
        self._cgroup: str | None = None
        self._comment: str | None = None
        self._established = False
        self._unknown: list[str] = []
        self._limits: list[str] = []
        self._module: str | None = None
        """Not known, and without an option until now."""
        self._target: str | None = None
        self._goto = False
        self._options_are_targets = False

    def read(self, line: int, text: str, hits: int | None) -> Line:
        """All of it."""
        while self._at < len(self._words):
            word = self._next("")
            if word == "!":
                self._negated = not self._negated
                continue
            self._option(word)
            self._negated = False
        self._end_module()
        if self._target not in GOES_ON and self._target is not None:
            self._unknown += self._limits
        loopback = self._device == "lo"
        entries = tuple(
            Entry(
                line=line,
                text=text,
                verdict=VERDICTS.get(self._target or "", "continue"),
                family=self._family,
                protocol=self._protocol or None,
                network=network,
                name_set=self._name_set,
                dports=self._ports.get("--dport"),
                sports=self._ports.get("--sport"),
                oifname=None if loopback else self._device,
                uids=self._uids,
                cgroup=self._cgroup,
                icmp_types=self._icmp_types,
                established=self._established,
                loopback=loopback,
                unknown=tuple(self._unknown),
                comment=self._comment,
                hits=hits,
            )
            for network in self._networks
        )
        return Line(entries, self._target, self._goto)

    def _next(self, option: str) -> str:
        if self._at >= len(self._words):
            raise BadLineError(f"{option}: its value is missing")
        self._at += 1
        return self._words[self._at - 1]

    def _option(self, word: str) -> None:
        option, attached = word, None
        if word.startswith("--") and "=" in word:
            option, _, attached = word.partition("=")
        elif len(word) > 2 and word[:2] in _SHORT and word[1] != "-":
            option, attached = word[:2], word[2:]
        option = _SHORT.get(option, option)
        handler = _HANDLERS.get(option)
        if handler is None:
            self._stranger(option if attached is None else word)
        else:
            handler(self, option, self._next(option) if attached is None else attached)

    def _stranger(self, option: str) -> None:
        if option == "--syn":
            self._flags_are_syn()
            return
        if not option.startswith("-") or option == "-":
            raise BadLineError(f"{option}: no option is written so")
        values = []
        while self._at < len(self._words) and self._words[self._at][:1] not in ("-", "!"):
            values.append(self._next(option))
        if not self._options_are_targets:
            self._module = None
            self._not_understood(option, *values)

    def _not_understood(self, *words: str) -> None:
        self._unknown.append(" ".join(("! " * self._negated + words[0], *words[1:])))

    def _end_module(self) -> None:
        if self._module is not None:
            self._unknown.append(f"-m {self._module}")
            self._module = None

    def _match(self, _option: str, name: str) -> None:
        self._end_module()
        self._options_are_targets = False
        if name not in _MODULES:
            self._module = name

    def _jump(self, option: str, target: str) -> None:
        if self._target is not None:
            raise BadLineError(f"{option} {target}: a second target")
        self._end_module()
        self._target, self._goto, self._options_are_targets = target, option == "--goto", True

    def _to(self, option: str, value: str) -> None:
        networks = [_network(part, self._family) for part in value.split(",")]
        if self._negated or not all(networks):
            self._not_understood(option, value)
        else:
            self._networks = [each if each is None or each.prefix else None for each in networks]

    def _in_set(self, option: str, name: str) -> None:
        flags = self._next(option)
        addresses = self._sets.get(name)
        known = addresses is not None and flags == "dst" and self._networks == [None]
        if self._negated or not known or any(each.family != self._family for each in addresses or ()):
            self._not_understood(option, name, flags)
            return
        self._name_set = name
        if addresses:
            self._networks = [*addresses]
        else:
            self._unknown.append(EMPTY_SET)

    def _of_protocol(self, option: str, value: str) -> None:
        number = _protocol(value)
        if number is None or self._negated:
            self._not_understood(option, value)
        else:
            self._protocol = number

    def _of_ports(self, option: str, value: str) -> None:
        ports = tuple(_port_range(part) for part in value.split(","))
        if self._negated:
            self._not_understood(option, value)
        else:
            self._ports[option.removesuffix("s")] = ports

    def _over(self, option: str, value: str) -> None:
        if self._negated or (value.endswith("+") and value != "+"):
            self._not_understood(option, value)
        elif value != "+":
            self._device = value

    def _of_uid(self, option: str, value: str) -> None:
        uids = _uids(value)
        if uids is None or self._negated:
            self._not_understood(option, value)
        else:
            self._uids = (uids,)

    def _of_cgroup(self, option: str, value: str) -> None:
        if self._negated:
            self._not_understood(option, value)
        else:
            self._cgroup = value.strip("/")

    def _of_state(self, option: str, value: str) -> None:
        states = set(value.upper().split(","))
        if ("NEW" in states) != self._negated:
            return  # It matches first packets.
        if states - _NOT_FIRST - {"NEW"}:
            self._not_understood(option, value)
        else:
            self._established = True

    def _of_flags(self, option: str, mask: str) -> None:
        flags = self._next(option)
        if set(mask.upper().split(",")) == _SYN and flags.upper() == "SYN":
            self._flags_are_syn()
        else:
            self._not_understood(option, mask, flags)

    def _flags_are_syn(self) -> None:
        """The first packet of a TCP connection and no other."""
        self._established |= self._negated

    def _of_icmp(self, option: str, value: str) -> None:
        name, _, code = value.partition("/")
        number = _ICMP_TYPES.get(name, (None, None))[self._family == 6]
        if re.fullmatch(r"[0-9]{1,3}", name):
            number = int(name)
        if name == "any" and not self._negated:
            return
        if number is None or code or self._negated:
            self._not_understood(option, value)
        else:
            self._icmp_types = ((number, number),)

    def _commented(self, _option: str, text: str) -> None:
        if self._comment is None:
            self._comment = text

    def _limited(self, option: str, value: str) -> None:
        self._limits.append(f"{option} {value}")


_HANDLERS: dict[str, Callable[[_Reader, str, str], None]] = {
    "--match": _Reader._match,
    "--jump": _Reader._jump,
    "--goto": _Reader._jump,
    "--destination": _Reader._to,
    "--match-set": _Reader._in_set,
    "--protocol": _Reader._of_protocol,
    "--dport": _Reader._of_ports,
    "--dports": _Reader._of_ports,
    "--sport": _Reader._of_ports,
    "--sports": _Reader._of_ports,
    "--out-interface": _Reader._over,
    "--uid-owner": _Reader._of_uid,
    "--path": _Reader._of_cgroup,
    "--state": _Reader._of_state,
    "--tcp-flags": _Reader._of_flags,
    "--icmp-type": _Reader._of_icmp,
    "--comment": _Reader._commented,
    **dict.fromkeys(_LIMITS, _Reader._limited),
}


def _network(text: str, family: Family) -> Network | None:
    """None for the name of a host, or a mask with holes."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if network.version != family:
        raise BadLineError(f"{text}: no IPv{family} address")
    return Network(family, int(network.network_address), network.prefixlen)


@lru_cache(1024)
def _protocol(text: str) -> int | None:
    """0: any; None where it is not known."""
    if re.fullmatch(r"[0-9]{1,3}", text):
        return int(text)
    try:
        return _PROTOCOLS.get(text.lower()) or socket.getprotobyname(text)
    except (OSError, ValueError):
        return 0 if text == "all" else None


@lru_cache(65536)
def _port_range(text: str) -> Range:
    first, colon, last = text.partition(":")
    low = _port(first) if first or not colon else 0
    high = low if not colon else _port(last) if last else 65535
    if low > high:
        raise BadLineError(f"{text}: ports in the wrong order")
    return low, high


def _port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) < 65536:
        return int(text)
    try:
        return socket.getservbyname(text)
    except (OSError, ValueError):
        raise BadLineError(f"{text}: no such port") from None


@lru_cache(1024)
def _uids(text: str) -> Range | None:
    match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", text)
    if match:
        return int(match[1]), int(match[2] or match[1])
    try:
        uid = pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        return None
    return uid, uid

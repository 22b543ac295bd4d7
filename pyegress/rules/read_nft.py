# SPDX-License-Identifier: MIT
"""Files of nft rules in the form that pyegress writes, line by line, with what an administrator may change in them.

Whatever else nft may take is an error with its line: of a rule that is only half understood nothing can be proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from pyegress.errors import InputError
from pyegress.escape import display
from pyegress.rules.addresses import BITS, Network, target_of
from pyegress.rules.firewall import Entry, Firewall, Range

_TOKEN = re.compile(r'"[^"\n]*"|[{},;]|[^\s{},;"]+')
_TABLE = r"(?:table|add table|delete table) inet ([a-z_][a-z0-9_]*)"
_PROTOCOLS = {
    "tcp": 6,
    "udp": 17,
    "icmp": 1,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "gre": 47,
    "esp": 50,
    "sctp": 132,
}
_ICMP6 = {
    "nd-router-solicit": 133,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "mld-listener-report": 131,
    "mld2-listener-report": 143,
}
_BASE = "type filter hook output priority filter ; policy accept ;"
_FIRST = {"ip": 4, "ip6": 6}


class _Element(NamedTuple):
    line: int
    text: str
    values: tuple[str, ...]
    comment: str | None


class _Set:
    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = ""
        self.elements: list[_Element] = []


def read_text(text: str) -> list[Firewall]:
    """The chain that packets pass on their way out; InputError with the line of what isn't understood."""
    return [_Reader(text).firewall()]


def own_table(text: str) -> str:
    """Name of the one inet table that a file makes anew; InputError with the line where it does anything else."""
    reader = _Reader(text)
    reader.firewall()
    return reader.table


class _Reader:
    def __init__(self, text: str) -> None:
        self.table = ""
        self._lines = enumerate(text.splitlines(), 1)
        self._number = 0
        self._line = ""
        self._sets: dict[str, _Set] = {}
        self._entries: list[Entry] = []
        self._has_chain = False

    def firewall(self) -> Firewall:
        """Read all of it."""
        deleted = False
        for words in self._statements():
            text = " ".join(words)
            match = re.fullmatch(_TABLE, text.removesuffix(" {"))
            if match is None or (self.table and match[1] != self.table):
                self._refuse("only one inet table may be in the file")
            self.table = match[1]
            if text.startswith("delete"):
                deleted = True
            elif text.endswith("{"):
                self._read_table()
        if not self._has_chain:
            raise InputError("nft: the file has no chain `output`")
        if not deleted:
            raise InputError(f"nft: the file doesn't begin anew: `delete table inet {self.table}` is missing")
        return Firewall(kind="nftables", families=(4, 6), entries=tuple(self._entries))

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"nft: line {self._number}: {display(self._line.strip()[:60])}: {why}")

    def _statements(self) -> Iterator[list[str]]:
        """The words of each line that has any."""
        for number, line in self._lines:
            self._number, self._line = number, line
            words = _words(line)
            if words is None:
                self._refuse("a string doesn't end")
            if words:
                yield words

    def _read_table(self) -> None:
        for words in self._statements():
            if words == ["}"]:
                return
            if len(words) == 3 and words[0] == "set" and words[2] == "{":
                self._read_set(_Set(words[1]))
            elif words == ["chain", "output", "{"] and not self._has_chain:
                self._has_chain = True
                self._read_chain()
            else:
                self._refuse("is neither a set nor the chain output")
        self._refuse("the table doesn't end")

    def _read_set(self, made: _Set) -> None:
        if made.name in self._sets:
            self._refuse("the set is there already")
        self._sets[made.name] = made
        for words in self._statements():
            if words == ["}"]:
                return
            if words[0] == "type":
                made.kind = " ".join(words[1:])
            elif words[:3] == ["elements", "=", "{"]:
                self._read_elements(made, words[3:])
            elif words not in (["counter"], ["flags", "interval"]):
                self._refuse("is not understood in a set")
        self._refuse("the set doesn't end")

    def _read_elements(self, made: _Set, words: list[str]) -> None:
        while True:
            closes = words[-1:] == ["}"]
            for element in _split(words[:-1] if closes else words):
                made.elements.append(self._element(element))
            if closes:
                return
            words = next(self._statements(), [])
            if not words:
                self._refuse("the elements don't end")

    def _element(self, words: list[str]) -> _Element:
        said = None
        if len(words) > 2 and words[-2] == "comment":
            said, words = words[-1].strip('"'), words[:-2]
        if not words or "." in words[::2] or any(word != "." for word in words[1::2]):
            self._refuse("is no element")
        return _Element(self._number, " . ".join(words[::2]), tuple(words[::2]), said)

    def _read_chain(self) -> None:
        words = next(self._statements(), [])
        if " ".join(words) != _BASE:
            self._refuse(f"a chain must begin with {_BASE.replace(' ;', ';')}")
        for words in self._statements():
            if words == ["}"]:
                return
            self._entries += self._rule(words)
        self._refuse("the chain doesn't end")

    def _rule(self, words: list[str]) -> list[Entry]:
        matches: list[dict[str, Any]] = [
            {"line": self._number, "text": " ".join(words), "verdict": "continue", "comment": None}
        ]
        rest = _Words(words)
        while rest:
            for pattern, read in _MATCHES:
                found = rest.take(pattern)
                if found is not None:
                    try:
                        ways = list(read(self, found))
                    except (ValueError, KeyError):
                        self._refuse("is not understood")
                    matches = [{**match, **way} for match in matches for way in ways]
                    break
            else:
                self._refuse(f"{rest.next} is not understood")
        return [Entry(**match) for match in matches]

    def set_named(self, name: str, kind: str) -> list[_Element]:
        """Elements of a set that a rule looks into."""
        made = self._sets.get(name.removeprefix("@"))
        if made is None or made.kind != kind:
            self._refuse(f"there is no set {name} of type {kind} before it")
        return made.elements


class _Words:
    """The rest of a rule."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)

    def __bool__(self) -> bool:
        return bool(self._words)

    @property
    def next(self) -> str:
        return display(self._words[0])

    def take(self, pattern: str) -> list[Any] | None:
        """What stands for the pattern's `*` (a word or a set in braces) and `?` (a word), if it comes next."""
        found: list[Any] = []
        at = 0
        for wanted in pattern.split():
            if at >= len(self._words):
                return None
            word = self._words[at]
            if wanted == "*" and word == "{":
                try:
                    end = self._words.index("}", at)
                except ValueError:
                    return None
                found.append([each for part in _split(self._words[at + 1 : end]) for each in part])
                at = end
            elif wanted in "*?":
                found.append([word] if wanted == "*" else word)
            elif wanted != word:
                return None
            at += 1
        del self._words[:at]
        return found


Way = dict[str, Any]


def _in_set(family: int, kind: str, protocol: int | None) -> Any:
    def read(reader: _Reader, found: list[Any]) -> Iterator[Way]:
        address = "ipv4_addr" if family == 4 else "ipv6_addr"
        for line, text, (network, second), said in reader.set_named(found[0], f"{address} . {kind}"):
            way: Way = {"family": family, "network": _network(network, family), "line": line, "text": text}
            way["comment"] = said
            if protocol is None:
                yield way | {"protocol": _protocol(second)}
            else:
                yield way | {"protocol": protocol, "dports": (_range(second),)}

    return read


def _daddr(family: int) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        for text in found[0]:
            yield {"family": family, "network": _network(text, family)}

    return read


def _ports(protocol: int | None, field: str) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        way: Way = {field: tuple(sorted(_range(text) for text in found[0]))}
        yield way if protocol is None else way | {"protocol": protocol}

    return read


def _cgroup(reader: _Reader, found: list[Any]) -> Iterator[Way]:
    name = found[1]
    paths = (
        [element.values[0] for element in reader.set_named(name, "cgroupsv2")]
        if name.startswith("@")
        else [name]
    )
    for path in paths:
        yield {"cgroup": path.strip('"')}


def _just(**way: Any) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        yield way

    return read


_MATCHES: tuple[tuple[str, Any], ...] = (
    *(
        (f"{first} daddr . {name} dport ?", _in_set(family, "inet_service", number))
        for first, family in _FIRST.items()
        for name, number in (("tcp", 6), ("udp", 17))
    ),
    ("ip daddr . ip protocol ?", _in_set(4, "inet_proto", None)),
    ("ip6 daddr . meta l4proto ?", _in_set(6, "inet_proto", None)),
    ("ip daddr *", _daddr(4)),
    ("ip6 daddr *", _daddr(6)),
    *((f"{name} dport *", _ports(number, "dports")) for name, number in (("tcp", 6), ("udp", 17))),
    *((f"{name} sport *", _ports(number, "sports")) for name, number in (("tcp", 6), ("udp", 17))),
    ("th dport *", _ports(None, "dports")),
    ("meta nfproto ipv4", _just(family=4)),
    ("meta nfproto ipv6", _just(family=6)),
    ("meta l4proto *", lambda _, found: ({"protocol": _protocol(each)} for each in found[0])),
    ("meta skuid *", lambda _, found: [{"uids": tuple(sorted(_range(each, 1 << 32) for each in found[0]))}]),
    ("socket cgroupv2 level ? ?", _cgroup),
    ('oifname "lo"', _just(oifname="lo", loopback=True)),
    ("oifname ?", lambda _, found: [{"oifname": found[0].strip('"')}]),
    ("ct state established , related", _just(established=True)),
    ("ct state established", _just(established=True)),
    (
        "icmpv6 type *",
        lambda _, found: [
            {
                "family": 6,
                "protocol": 58,
                "icmp_types": tuple(sorted((_icmp6(each), _icmp6(each)) for each in found[0])),
            }
        ],
    ),
    ("limit rate ? burst ? packets", _just()),
    ("limit rate ?", _just()),
    ("counter packets ? bytes ?", _just()),
    ("counter", _just()),
    ("log prefix ?", _just()),
    ("log", _just()),
    ("accept", _just(verdict="accept")),
    ("drop", _just(verdict="drop")),
    ("reject with tcp reset", _just(verdict="reject")),
    ("reject with icmpx ?", _just(verdict="reject")),
    ("reject", _just(verdict="reject")),
    ("comment ?", lambda _, found: [{"comment": found[0].strip('"')}]),
)


def _words(line: str) -> list[str] | None:
    """Of a line, less a comment that is all of it; None where a string doesn't end."""
    if line.lstrip().startswith("#"):
        return []
    if _TOKEN.sub("", line).strip():
        return None
    return _TOKEN.findall(line)


def _split(words: Iterable[str]) -> Iterator[list[str]]:
    """What stands between commas."""
    part: list[str] = []
    for word in words:
        if word == ",":
            if part:
                yield part
            part = []
        else:
            part.append(word)
    if part:
        yield part


def _network(text: str, family: int) -> Network:
    address, _, length = text.partition("/")
    target = target_of(address)
    if target is None or target.network.family != family or target.zone is not None:
        raise ValueError(text)
    bits = BITS[target.network.family]
    prefix = int(length) if length else bits
    if not 0 <= prefix <= bits:
        raise ValueError(text)
    first = target.network.first >> (bits - prefix) << (bits - prefix)
    return Network(target.network.family, first, prefix)


def _range(text: str, end: int = 65536) -> Range:
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high < end:
        raise ValueError(text)
    return low, high


def _protocol(text: str) -> int:
    return int(text) if text.isdecimal() else _PROTOCOLS[text]


def _icmp6(text: str) -> int:
    return int(text) if text.isdecimal() else _ICMP6[text]

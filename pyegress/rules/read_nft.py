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
from pyegress.rules.firewall import EMPTY_SET, Entry, Firewall, Verdict
from pyegress.rules.hostnames import is_set_name
from pyegress.rules.nft_fields import ICMP_TYPES, Way, both, networks, numbers, ports, protocol_number, states

_TOKEN = re.compile(r'"[^"\n]*"|#.*|[{},;]|[^\s{},;"#]+')
_PUNCTUATION = frozenset("{},;")
_TABLE = re.compile(r"(table|add table|delete table) inet ([a-z_][a-z0-9_]*)( \{)?")
_SET = re.compile(r"set ([A-Za-z_][A-Za-z0-9_]*) \{")
_TYPE = re.compile(r"type ([a-z0-9_]+(?: \. [a-z0-9_]+)*)(?: ;)?")
_BASE = re.compile(
    r"type filter hook output priority (?:filter|-?[0-9]+|filter [+-] [0-9]+) ;(?: policy (accept|drop) ;)?"
)
_WILDCARD = "*"
_TIMEOUT = re.compile(r"timeout (?:[0-9]+(?:ms|[dhms]))+")
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
        # Only this ends a line of nft.
        self._lines = enumerate(text.split("\n"), 1)
        self._number = 0
        self._line = ""
        self._sets: dict[str, _Set] = {}
        self._entries: list[Entry] = []
        self._policy: Verdict = "accept"
        self._has_chain = False

    def firewall(self) -> Firewall:
        """Read all of it."""
        deleted = False
        for words in self._statements():
            match = _TABLE.fullmatch(" ".join(words).removesuffix(" ;"))
            if match is None or (self.table and match[2] != self.table):
                self._refuse("only one inet table may be in the file")
            self.table = match[2]
            if match[3] and match[1] == "table":
                if not deleted:
                    self._refuse(f"the file doesn't begin anew: `delete table inet {self.table}` is missing")
                self._read_table()
            elif match[3] or self._has_chain:
                self._refuse("only `add table`, `delete table` and then the table itself may be in the file")
            deleted |= match[1] == "delete table"
        if not self._has_chain:
            raise InputError("nft: the file has no chain `output`")
        return Firewall(kind="nftables", families=(4, 6), entries=tuple(self._entries), policy=self._policy)

    def _refuse(self, why: str) -> NoReturn:
        raise _refused(self._number, self._line, why)

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
            if match := _SET.fullmatch(" ".join(words)):
                self._read_set(_Set(match[1]))
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
            if match := _TYPE.fullmatch(" ".join(words)):
                made.kind = match[1]
            elif words[:3] == ["elements", "=", "{"]:
                self._read_elements(made, words[3:])
            elif not _is_set_option(" ".join(words).removesuffix(" ;")):
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
        if len(words) > 2 and words[-2] == "comment" and words[-1] not in _PUNCTUATION:
            said, words = words[-1].strip('"'), words[:-2]
        while (
            len(words) > 2 and words[-2] in ("timeout", "expires") and _TIMEOUT.match(f"timeout {words[-1]}")
        ):
            words = words[:-2]
        if (
            len(words) % 2 == 0
            or not {".", *_PUNCTUATION}.isdisjoint(words[::2])
            or any(word != "." for word in words[1::2])
        ):
            self._refuse("is no element")
        return _Element(self._number, " . ".join(words[::2]), tuple(words[::2]), said)

    def _read_chain(self) -> None:
        match = _BASE.fullmatch(" ".join(next(self._statements(), [])))
        if match is None:
            self._refuse(
                "a chain must begin with type filter hook output priority filter; policy accept; (or drop)"
            )
        self._policy = "drop" if match[1] == "drop" else "accept"
        for words in self._statements():
            if words == ["}"]:
                return
            self._entries += self._rule(words)
        self._refuse("the chain doesn't end")

    def _rule(self, words: list[str]) -> list[Entry]:
        rest = _Words(words[:-1] if words[-1] == ";" else words)
        ways: list[Way] = [{"line": self._number, "text": " ".join(words)}]
        verdict: Verdict = "continue"
        decided, unknown = False, []
        while rest:
            pattern, found, read = self._next(rest)
            if decided and read is not _comment:
                self._refuse("nothing but a comment may stand behind what happens to the packet")
            if isinstance(read, str):
                verdict, decided = read, True  # type: ignore[assignment]
            elif read is None:
                # How often it matches depends on what came before.
                unknown += [pattern] if pattern.startswith("limit") else []
            else:
                ways = self._both(ways, read, found)
        return [
            Entry(verdict=verdict, **{**way, "unknown": (*unknown, *way.get("unknown", ()))}) for way in ways
        ]

    def _next(self, rest: _Words) -> tuple[str, list[Any], Any]:
        for pattern, read in _MATCHES:
            found = rest.take(pattern)
            if found is not None:
                return pattern, found, read
        return self._refuse(f"{rest.next} is not understood")

    def _both(self, ways: list[Way], read: Any, found: list[Any]) -> list[Way]:
        try:
            more = list(read(self, found))
        except (ValueError, KeyError):
            self._refuse("is not understood")
        try:
            return [both(way, each) for way in ways for each in more]
        except ValueError as error:
            self._refuse(str(error))

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
        """What stands for the pattern's `*` (a word or a set in braces), `+` (that, or words between commas), `?`
        (a word) and `@` (the name of a set), if it comes next.
        """
        found: list[Any] = []
        at = 0
        for wanted in pattern.split():
            if at >= len(self._words):
                return None
            word = self._words[at]
            if wanted in "*+" and word == "{":
                try:
                    end = self._words.index("}", at)
                except ValueError:
                    return None
                found.append([each for part in _split(self._words[at + 1 : end]) for each in part])
                at = end
            elif wanted == "@":
                if word[0] != "@":
                    return None
                found.append(word)
            elif wanted in "*+?":
                if word in _PUNCTUATION:
                    return None
                found.append(word if wanted == "?" else [word])
                while wanted == "+" and self._words[at + 1 : at + 2] == [","] and at + 2 < len(self._words):
                    at += 2
                    found[-1].append(self._words[at])
            elif wanted != word:
                return None
            at += 1
        del self._words[:at]
        return found


def _in_set(family: int, kind: str, protocol: int | None) -> Any:
    def read(reader: _Reader, found: list[Any]) -> Iterator[Way]:
        address = "ipv4_addr" if family == 4 else "ipv6_addr"
        for element in reader.set_named(found[0], f"{address} . {kind}"):
            try:
                first, second = element.values
                way: Way = (
                    {"protocol": protocol_number(second)} if protocol is None else {"protocol": protocol}
                )
                if protocol is not None:
                    way["dports"] = (ports(second),)
                way |= {"family": family, "comment": element.comment}
                way |= {"line": element.line, "text": element.text}
                for network in networks(first, family):
                    yield way | {"network": network}
            except (ValueError, KeyError) as error:
                raise _refused(element.line, element.text, "is not understood") from error

    return read


def _daddr(family: int) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        for text in found[0]:
            for network in networks(text, family):
                yield {"family": family, "network": network}

    return read


def _in_name_set(family: int) -> Any:
    def read(reader: _Reader, found: list[Any]) -> Iterator[Way]:
        name = found[0].removeprefix("@")
        if name == found[0] or not is_set_name(name):
            raise ValueError(name)
        asked: Way = {"family": family, "name_set": name}
        elements = reader.set_named(name, "ipv4_addr" if family == 4 else "ipv6_addr")
        if not elements:
            yield asked | {"unknown": (EMPTY_SET,)}
        for element in elements:
            try:
                for network in networks(element.text, family):
                    yield asked | {"network": network, "line": element.line, "text": element.text}
            except ValueError as error:
                raise _refused(element.line, element.text, "is not understood") from error

    return read


def _ports(protocol: int | None, field: str) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        way: Way = {field: tuple(sorted(ports(text) for text in found[0]))}
        yield way if protocol is None else way | {"protocol": protocol}

    return read


def _cgroup(reader: _Reader, found: list[Any]) -> Iterator[Way]:
    level, name = int(found[0]), found[1]
    elements = reader.set_named(name, "cgroupsv2") if name.startswith("@") else None
    for path in [name] if elements is None else [element.values[0] for element in elements]:
        path = path.strip('"')
        # The kernel compares the ancestor of that level alone.
        if path.count("/") + 1 != level:
            raise ValueError(path)
        yield {"cgroup": path}


def _protocols(family: int | None) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        for text in found[0]:
            yield {"protocol": protocol_number(text)} | ({} if family is None else {"family": family})

    return read


def _uids(_: _Reader, found: list[Any]) -> Iterator[Way]:
    yield {"uids": tuple(sorted(numbers(text, 1 << 32) for text in found[0]))}


def _oifname(_: _Reader, found: list[Any]) -> Iterator[Way]:
    for text in found[0]:
        name = text.strip('"')
        if name.endswith(_WILDCARD):
            raise ValueError(name)
        yield {"oifname": name, "loopback": True} if name == "lo" else {"oifname": name}


def _icmp(protocol: int) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        known = ICMP_TYPES[protocol]
        types = sorted(int(text) if text.isdecimal() else known[text] for text in found[0])
        yield {
            "family": 4 if protocol == 1 else 6,
            "protocol": protocol,
            "icmp_types": tuple((each, each) for each in types),
        }

    return read


def _comment(_: _Reader, found: list[Any]) -> Iterator[Way]:
    yield {"comment": found[0].strip('"')}


def _just(**way: Any) -> Any:
    def read(_: _Reader, found: list[Any]) -> Iterator[Way]:
        yield way

    return read


# What reads a match; a verdict; or None for what asks for nothing.
_MATCHES: tuple[tuple[str, Any], ...] = (
    *(
        (f"{first} daddr . {name} dport ?", _in_set(family, "inet_service", number))
        for first, family in _FIRST.items()
        for name, number in (("tcp", 6), ("udp", 17))
    ),
    ("ip daddr . ip protocol ?", _in_set(4, "inet_proto", None)),
    ("ip6 daddr . meta l4proto ?", _in_set(6, "inet_proto", None)),
    # A set's name is one word, and no address.
    ("ip daddr @", _in_name_set(4)),
    ("ip6 daddr @", _in_name_set(6)),
    ("ip daddr *", _daddr(4)),
    ("ip6 daddr *", _daddr(6)),
    *((f"{name} dport *", _ports(number, "dports")) for name, number in (("tcp", 6), ("udp", 17))),
    *((f"{name} sport *", _ports(number, "sports")) for name, number in (("tcp", 6), ("udp", 17))),
    ("th dport *", _ports(None, "dports")),
    ("meta nfproto ipv4", _just(family=4)),
    ("meta nfproto ipv6", _just(family=6)),
    ("meta l4proto *", _protocols(None)),
    ("ip protocol *", _protocols(4)),
    ("meta skuid *", _uids),
    ("socket cgroupv2 level ? ?", _cgroup),
    ("oifname *", _oifname),
    ("ct state +", lambda _, found: [states(found[0])]),
    ("icmp type *", _icmp(1)),
    ("icmpv6 type *", _icmp(58)),
    ("limit rate ? burst ? packets", None),
    ("limit rate ?", None),
    ("counter packets ? bytes ?", None),
    ("counter", None),
    ("log prefix ?", None),
    ("log", None),
    ("accept", "accept"),
    ("drop", "drop"),
    ("reject with tcp reset", "reject"),
    *((f"reject with {kind} ?", "reject") for kind in ("icmp", "icmpv6", "icmpx")),
    ("reject", "reject"),
    ("comment ?", _comment),
)


def _is_set_option(text: str) -> bool:
    return text in ("counter", "flags interval", "flags timeout", "auto-merge") or bool(
        _TIMEOUT.fullmatch(text)
    )


def _refused(number: int, line: str, why: str) -> InputError:
    return InputError(f"nft: line {number}: {display(line.strip()[:60])}: {why}")


def _words(line: str) -> list[str] | None:
    """Of a line, less a comment; None where a string doesn't end."""
    if _TOKEN.sub("", line).strip():
        return None
    return [word for word in _TOKEN.findall(line) if word[0] != "#"]


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

# SPDX-License-Identifier: MIT
"""Lines of egress-auditor's logfmt output -> pairs as ours are.

It quotes what holds a space, a tab, a quote or a backslash, by Go's rules, and writes all else as it is: empty, with
`=`, with bytes that aren't UTF-8. What it doesn't know is empty or 0.
"""

from __future__ import annotations

import re

from pyegress.logs.addresses import ip_version

_LINE = re.compile(rb"ts=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z hook=")
"""Its times have no fraction, ours always do."""
_PAIR = re.compile(r' ([a-z_0-9]+)=(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^ \t"\\]*))(?= |\Z)', re.DOTALL)
# strconv.Quote; the last, empty, alternative is a backslash that begins none of them.
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9a-f]{2})|u((?!d[89a-f])[0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})|)"
)
_NAMED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def wrote(line: bytes) -> bool:
    """Whether it is a line of egress-auditor."""
    return _LINE.match(line) is not None


def pairs(line: bytes) -> dict[str, str]:
    """What is known, by key; ValueError where it is no whole line."""
    found: dict[str, str] = {}
    text = " " + line.decode(errors="surrogateescape")
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError("no pair")
        key, inside, bare = match.groups()
        if key in found:
            raise ValueError("a key comes twice")
        found[key] = bare if inside is None else _ESCAPE.sub(_char, inside)
        at = match.end()
    # The address decides: of an IPv4 address on an IPv6 socket it says 6.
    found["ip_version"] = str(ip_version(found.get("dest_ip", "")))
    return {
        key: value for key, value in found.items() if value and not (value == "0" and key.endswith("_pid"))
    }


def _char(match: re.Match[str]) -> str:
    named, byte, four, eight = match.groups()
    if named is not None:
        return _NAMED.get(named, named)
    if byte is not None:
        return chr(int(byte, 16)) if byte < "80" else chr(0xDC00 + int(byte, 16))
    code = four or eight
    if code is None:
        raise ValueError("an unknown escape")
    return chr(int(code, 16))

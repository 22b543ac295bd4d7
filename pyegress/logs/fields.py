# SPDX-License-Identifier: MIT
"""Keys of logfmt -> fields of the record: each text checked, and nothing made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyegress.logs.addresses import ip_version
from pyegress.logs.timestamp import parsed
from pyegress.record import Process

Pairs = dict[str, str]
"""Values by key, as they were observed."""
Fields = dict[str, Any]
"""Values by their names in the record."""
Keys = Mapping[str, tuple[str, Callable[[str], Any]]]
"""The field of each key, and what makes its value of the text."""


def number(text: str) -> int:
    """A whole number that isn't negative and fits 64 bits; ValueError for all else."""
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) >> 64:
        raise ValueError("not a number")
    return int(text)


def _port(text: str) -> int:
    if number(text) > 65535:
        raise ValueError("not a port")
    return int(text)


def _count(text: str) -> int:
    if number(text) == 0:
        raise ValueError("not a count")
    return int(text)


def _version(text: str) -> int:
    if text not in ("4", "6"):
        raise ValueError("not a version of IP")
    return int(text)


def _flag(text: str) -> bool:
    if text != "true":
        raise ValueError("not a flag")
    return True


def _text(text: str) -> str:
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(number, text.split(",")))


_RELATIVE: Keys = {
    "name": ("name", _text),
    "pid": ("pid", number),
    "user": ("user", _text),
    "exe": ("exe", _text),
}
_PARENT: Keys = {f"parent_{key}": reads for key, reads in _RELATIVE.items()}
_GRANDPARENT: Keys = {f"grandparent_{key}": reads for key, reads in _RELATIVE.items()}
_PROCESS: Keys = {
    **{f"proc_{key}": reads for key, reads in _RELATIVE.items()},
    "proc_cmdline": ("cmdline", _text),
    "proc_uid": ("uid", number),
    "proc_gid": ("gid", number),
    "proc_loginuid": ("loginuid", number),
    "proc_session_pid": ("session_pid", number),
    "proc_session_name": ("session_name", _text),
    "proc_script": ("script", _text),
    "proc_cmdline_cut": ("cmdline_cut", _flag),
    "proc_kernel": ("kernel", _flag),
    "proc_cgroup_id": ("cgroup_id", number),
    "proc_cgroup": ("cgroup", _text),
    "unit": ("unit", _text),
    "user_unit": ("user_unit", _text),
    "slice": ("slice", _text),
    "login_session": ("login_session", _text),
    "container": ("container", _text),
    "container_name": ("container_name", _text),
    "container_engine": ("container_engine", _text),
    "pod": ("pod", _text),
    "proc_pidns": ("pidns", number),
    "proc_netns": ("netns", number),
}
TARGET: Keys = {
    "hook": ("hook", _text),
    "protocol": ("protocol", _text),
    "dest_ip": ("dest_ip", _text),
    "dest_port": ("dest_port", _port),
    "ip_version": ("ip_version", _version),
}
VARYING: Keys = {
    "ts": ("ts", parsed),
    "src_port": ("src_port", _port),
    "count": ("count", _count),
}
SOCKET: Keys = {
    "src_ip": ("src_ip", _text),
    "result": ("result", _text),
    "netns": ("netns", number),
    "ifname": ("ifname", _text),
    "direction": ("direction", _text),
    "kernel_socket": ("kernel_socket", _flag),
    "socket_uid": ("socket_uid", number),
    "proc_thread": ("thread", _text),
    "attribution": ("attribution", _text),
}
END: Keys = {
    "dest_names": ("dest_names", _names),
    "dest_name_sources": ("dest_name_sources", _names),
    "dest_name_ages": ("dest_name_ages", _numbers),
    "dest_names_missing": ("dest_names_missing", _text),
    "verdict": ("verdict", _text),
}
KNOWN = frozenset((*_GRANDPARENT, *_PARENT, *_PROCESS, *TARGET, *VARYING, *SOCKET, *END))


def values(keys: Keys, pairs: Pairs) -> Fields:
    """What the pairs say of these keys; ValueError where they can't be true."""
    found = {}
    for key, text in pairs.items():
        reads = keys.get(key)
        if reads is not None:
            name, read = reads
            found[name] = read(text)
    return found


def target_of(pairs: Pairs) -> Fields:
    """Where it went to; ValueError where that isn't said, or can't be."""
    found: Fields = {"dest_port": None, **values(TARGET, pairs)}
    if not (found.get("hook") and found.get("protocol")):
        raise ValueError("no hook or protocol")
    if found.get("ip_version") != ip_version(found.get("dest_ip", "")):
        raise ValueError("an address of the other version")
    return found


def process_of(pairs: Pairs) -> Process | None:
    """Who it was, with parent and grandparent; None where nothing is said of them."""
    found: Process | None = None
    # A line says once where the connection's process and its ancestors come from.
    attribution = pairs.get("attribution", "kernel")
    for keys in _GRANDPARENT, _PARENT, _PROCESS:
        own = values(keys, pairs)
        if own or found is not None:
            found = Process(parent=found, attribution=attribution, **own)
    return found

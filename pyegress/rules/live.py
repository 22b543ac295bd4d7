# SPDX-License-Identifier: MIT
"""The rules of pyegress that this host has loaded: asked from nft and iptables-save, in bounded time and memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event, Timer
from typing import Literal

from pyegress.errors import EgressError, InputError, UnsupportedError
from pyegress.escape import display
from pyegress.rules import ipset, read_iptables, read_nft_json
from pyegress.rules.addresses import Family
from pyegress.rules.firewall import Firewall
from pyegress.rules.hostnames import IPSET_PREFIX
from pyegress.rules.iptables import PROGRAM

PATIENCE_S = 120
MOST_BYTES = 256 << 20
"""A hundred times what 50,000 rules are."""
_COMPLAINT_BYTES = 4096
_SYSTEM = "/usr/sbin:/sbin"
"""Where a user's PATH doesn't look."""
_LEGACY_NAMES: dict[Family, str] = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_NFT_FAMILIES: dict[Family, str] = {4: "ip", 6: "ip6"}
_IPTABLES_TABLES = frozenset(("filter", "nat", "mangle", "raw", "security"))


class _FailedError(EgressError):
    """A program that ended with an error."""


def nft_table(name: str) -> list[Firewall]:
    """What the table inet of that name does with outgoing packets; nothing where there is none."""
    if not is_installed("nft"):
        return []
    try:
        return read_nft_json.read_json(_output("nft", "-j", "-n", "list", "table", "inet", name))
    except _FailedError as error:
        if "No such file or directory" in str(error):
            return []
        raise UnsupportedError(str(error)) from error


def iptables_chain(family: Family, own: bool = True) -> list[Firewall]:
    """The chain PYEGRESS as OUTPUT leads to it (nothing where there is none), or all of OUTPUT in the table filter."""
    program = f"{PROGRAM[family]}-save"
    if not is_installed(program):
        return []
    try:
        text = _output(program, "-c")
        sets = (
            ipset.read_text(_output("ipset", "save"), strict=False)
            if f" --match-set {IPSET_PREFIX}" in text
            else {}
        )
        return read_iptables.read_live_filter(text, family, own, sets)
    except _FailedError as error:
        raise UnsupportedError(str(error)) from error


def backend_notices(family: Family) -> Iterator[str]:
    """The other backend of iptables, where it has tables too: they decide as well and weren't looked at."""
    program = PROGRAM[family]
    with suppress(EgressError):
        other = other_backend(family)
        if other is not None:
            see = f"see {program}-{other}-save"
            yield f"{program}: tables of the {other} backend decide too and were not looked at; {see}"


def other_backend(family: Family) -> Literal["legacy", "nft"] | None:
    """Which backend has tables too beside that of the host's iptables; raises EgressError where it can't be told."""
    version = _output(f"{PROGRAM[family]}-save", "--version")
    if "(nf_tables)" in version and legacy_tables(family):
        return "legacy"
    if "(legacy)" in version and is_installed("nft"):
        tables = _output("nft", "list", "tables", _NFT_FAMILIES[family]).splitlines()
        if _IPTABLES_TABLES.intersection(line.split()[-1] for line in tables if line.strip()):
            return "nft"
    return None


def is_installed(program: str) -> bool:
    """Whether it can be found."""
    return found(program) is not None


def found(program: str) -> str | None:
    """Where a program is; also where a user's PATH doesn't look."""
    return _which(program, f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")


def legacy_tables(family: Family) -> list[str]:
    """Those that there are; asking a program for one would make it."""
    try:
        return Path(_LEGACY_NAMES[family]).read_text().split()
    except OSError:
        return []


@cache
def _which(program: str, path: str) -> str | None:
    # Absolute and remembered: the watchdog of `apply`, in another folder, takes back by what has loaded.
    where = shutil.which(program, path=path)
    return None if where is None else str(Path(where).absolute())


def _output(program: str, *arguments: str) -> str:
    """What a program writes to stdout."""
    path = found(program)
    if path is None:
        raise UnsupportedError(f"{program}: not found; install it")
    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise UnsupportedError(f"{program}: cannot run: {error.strerror}") from error
        data = _bounded(program, child)
        complaints.seek(0)
        said = complaints.read(_COMPLAINT_BYTES).decode("utf-8", "surrogateescape")
    if child.returncode != 0:
        raise _FailedError(f"{program}: {_reason(said) or f'ended with status {child.returncode}'}")
    return data.decode("utf-8", "surrogateescape")


def _bounded(program: str, child: subprocess.Popen[bytes]) -> bytes:
    """All that it writes until it ends, which it must do in time."""
    overdue = Event()

    def end() -> None:
        overdue.set()
        child.kill()

    timer = Timer(PATIENCE_S, end)
    timer.daemon = True
    timer.start()
    try:
        with child:
            try:
                assert child.stdout is not None
                data = child.stdout.read(MOST_BYTES + 1)
                if len(data) <= MOST_BYTES:
                    child.wait()
            finally:
                child.kill()
    finally:
        timer.cancel()
    if overdue.is_set():
        raise InputError(f"{program}: still at work after {PATIENCE_S} s; it was ended")
    if len(data) > MOST_BYTES:
        raise InputError(f"{program}: lists more than {MOST_BYTES >> 20} MiB of rules")
    return data


def _reason(said: str) -> str:
    """The first line that tells what is wrong; nft shows the place below it."""
    lines = (line.strip() for line in said.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    text = display(first.removeprefix("Error: "))
    if os.geteuid() != 0 and re.search("ermission|permitted|you must be root", text):
        text += "; run as root, for example with sudo"
    return text

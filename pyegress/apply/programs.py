# SPDX-License-Identifier: MIT
"""nft and the iptables programs: fed with text by stdin, and what they complain of as one line."""

from __future__ import annotations

import os
import re
import subprocess
from typing import NamedTuple

from pyegress.errors import EgressError, UnsupportedError
from pyegress.escape import display
from pyegress.rules import live

PATIENCE_S = 600
"""For one run: iptables-nft takes a minute to replace 50,000 rules."""

_PACKAGES = {"nft": "nftables", "ipset": "ipset"}
_NFT_PLACE = re.compile(r"/dev/stdin:(\d+):\d+-\d+: ?")
_RESTORE_PLACE = re.compile(r"(?:Error occurred at )?line:? (\d+)(?: failed)?:? ?")
_RESTORE_NAME = re.compile(r"^[a-z0-9-]+ v[0-9.]+ \([a-z_]+\): ?|^[a-z0-9-]+-restore: ?")


class Complaint(NamedTuple):
    """What a program said when it failed."""

    line: int | None
    """Of its input, from 1."""
    text: str
    """Fit for a terminal."""


class ProgramError(EgressError):
    """A program refused its input."""

    def __init__(self, program: str, complaint: Complaint) -> None:
        super().__init__(f"{program}: {complaint.text}")
        self.complaint = complaint


def run(program: str, *arguments: str, text: bytes = b"") -> str:
    """What it wrote to stdout; ProgramError if it failed."""
    path = live.found(program)
    if path is None:
        package = _PACKAGES.get(program, "iptables")
        raise UnsupportedError(f"{program}: not found; install it, for example with apt install {package}")
    try:
        # Descriptors that are to be inherited are: the watchdog's end must stay open as long as a child works.
        done = subprocess.run(
            [path, *arguments],
            input=text,
            capture_output=True,
            close_fds=False,
            timeout=PATIENCE_S,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except OSError as error:
        raise UnsupportedError(f"{program}: cannot run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise EgressError(f"{program}: still at work after {PATIENCE_S} s; it was ended") from None
    if done.returncode != 0:
        said = _text(done.stderr)
        raise ProgramError(program, complaint_of(said) if said.strip() else Complaint(None, "failed"))
    return _text(done.stdout)


def complaint_of(said: str) -> Complaint:
    """The first error that nft or iptables-restore tells, and where."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("Try `")]
    if match := next(filter(None, map(_NFT_PLACE.match, lines)), None):
        text = match.string[match.end() :]
        return Complaint(int(match[1]), display(text.removeprefix("Error: ").strip()))
    if lines and (lines[0].startswith("Error:") or "Error:" in lines[0]):
        # nft shows the place on lines of its own.
        del lines[1:]
    place = next(filter(None, map(_RESTORE_PLACE.search, lines)), None)
    words = (_RESTORE_PLACE.sub("", _RESTORE_NAME.sub("", line)).strip() for line in lines)
    text = ": ".join(word for word in words if word).removeprefix("Error: ")
    return Complaint(int(place[1]) if place else None, display(text or "refused"))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")

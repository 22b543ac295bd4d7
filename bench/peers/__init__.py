# SPDX-License-Identifier: MIT
"""Other tools beside pyegress in one guest: what they cost, and what they saw of what was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

FILE = Path(__file__).parent.with_name("peers.json")
SCORES = FILE.with_name("scores.json")
SHARED = Path("/run/results")
"""A folder that the guest shares with the host."""
ORIGINAL = SHARED / "egress-auditor"
TARGET = "127.0.0.1"
PORT = 45000
"""Closed; what is measured goes there."""
PROBE_PORT = 45001
"""Closed; what is sent there asks whether a tool sees anything yet."""

Load = Literal["udp", "tcp"]
LOADS: tuple[Load, ...] = ("udp", "tcp")
LOAD_TITLES: dict[Load, str] = {"udp": "datagram", "tcp": "connect"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one tool did under one load."""

    peer: str
    load: Load
    least: int | None = None
    """Instructions added to the fastest call, which woke no reader; None where the tool did not run."""
    median: int | None = None
    mean: int | None = None
    """Added on average, with what came between: the reader, woken on the same CPU."""
    own: int | None = None
    """Instructions that the tool's own processes took for each call sent."""
    idle: int | None = None
    """Instructions that they took in a second without traffic: 1,000,000 are 0.1 % of a CPU that makes 10^9."""
    sent: int = 0
    seen: int = 0
    named: int = 0
    """Of `seen`: those with the right process."""
    names_processes: bool = True
    """Whether the tool tells processes at all."""
    note: str = ""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of one boot."""

    kernel: str
    """Its package."""
    calls: int
    bare: dict[Load, int]
    drift: int
    """How far the bare calls had moved when they were measured again at the end."""
    rows: list[Row]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What one tool told of the ways to send in `tests.scenarios`."""

    peer: str
    names_processes: bool = True
    """Whether it tells processes; then the right one is asked for, else only address and port."""
    whole: list[str] = []
    """Of these each connect, or of datagrams each flow."""
    part: list[str] = []
    """Of these some connects, not all."""
    records: int = 0
    """Most for one flow."""
    note: str = ""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """All tools in one boot."""

    kernel: str
    scenarios: list[str]
    rows: list[Score]
